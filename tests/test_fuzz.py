"Damaged and malicious files, a few of each kind; `python tests/fuzz.py` has thousands"
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spatialavatar0.clip.lmdb import Lmdb
from spatialavatar0.clip.samples import flame_like
from spatialavatar0.clip.untrusted import (inside, numbers, picture_size, pinhole, read_arrays,
                                           read_json,
                                           read_pickle_tree, read_torch, rigid)
from spatialavatar0.core import UserError

sys.path.insert(0, str(Path(__file__).parent))
import fuzz  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore')
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
names = ('vhap gagavatar metrical flashavatar insta imavatar nersemble gaussianavatars cap4d vfhq hdtf celebvhq '
         'transforms colmap').split()


@pytest.fixture(scope='module')
def head(): return flame_like()


@pytest.fixture(autouse=True, scope='module')
def audit():
    "Python cannot take a hook away: it is deaf outside of a case"
    sys.addaudithook(fuzz.listen)


@pytest.mark.parametrize('name', names)
def test_reader_survives(name, head, tmp_path):
    case = fuzz.Case(name, head, tmp_path)
    ends = [case(i, seed=1) for i in range(25)]
    assert not [e for e in ends if e[0] not in ('read', 'refused')]
    assert {e[0] for e in ends} >= ({'refused'} if name not in ('vfhq', 'hdtf') else set())


@pytest.mark.parametrize('name', fuzz.files())
def test_file_survives(name, head, tmp_path):
    case = fuzz.Case(name, head, tmp_path)
    ends = [case(i, seed=1) for i in range(60)]
    assert not [e for e in ends if e[0] not in ('read', 'refused')]
    assert {e[0] for e in ends} >= {'refused'}


def raises(error):
    def run(folder, out, head): raise error
    return run


def leaves(folder, out, head):
    (out.parent/'.me-12ab').mkdir()
    raise UserError('broken', folder)


careless = {'KeyError': raises(KeyError('x')), 'no file named': raises(UserError('broken')),
            'left behind': leaves,
            'not allowed': lambda folder, out, head: os.system('true'),
            'not allowed: ': lambda folder, out, head: (folder/'../../../secret.png').read_bytes(),
            'executed': lambda folder, out, head: (out.parent.parent/'pwned').touch(),
            'wrote outside': lambda folder, out, head: (out.parent.parent/'me').touch()}


@pytest.mark.parametrize('end', careless)
def test_the_fuzzer_notices(end, head, tmp_path):
    case = fuzz.Case('hdtf', head, tmp_path)
    case.run = careless[end]
    assert case(0, seed=0)[0].startswith(end)


def test_all_readers_are_fuzzed():
    assert set(names) | {'films'} | set(fuzz.files()) == set(fuzz.readers())


def reads(reader, path, data):
    "Nothing but a `UserError` in one line, which names the file"
    path.write_bytes(data)
    try: return reader(path)
    except UserError as e: assert str(path) in str(e) and '\n' not in str(e)


@pytest.mark.parametrize('reader',
                         [read_json, read_arrays, read_pickle_tree, read_torch, Lmdb, picture_size])
def test_any_bytes(reader, tmp_path):
    starts = {b'', b'PK\x03\x04', b'\x80\x04', b'\x80\x02}q\x00', b'{"a":', b'\x89PNG\r\n\x1a\n',
              b'\xff\xd8\xff\xe0', b'\x93NUMPY\x01\x00'}

    @quick
    @given(st.sampled_from(sorted(starts)), st.binary(max_size=400))
    def check(start, rest): reads(reader, tmp_path/'f', start + rest)
    check()


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                        lambda x: st.lists(x, max_size=5) | st.dictionaries(st.text(max_size=5), x,
                                                                            max_size=5), max_leaves=20)


@quick
@given(anything)
def test_any_json_round_trips(tree):
    "What JSON can hold is read as it is, if it is an object"
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        data = json.dumps(tree).encode()
        back = reads(read_json, Path(folder)/'a.json', data)
        assert (back is not None) == isinstance(tree, dict)


@quick
@given(anything, st.sampled_from([(3,), (4, 4), (-1, 6), (1,)]))
def test_any_numbers(x, shape):
    "Finite numbers of the wanted shape, or a complaint"
    try: got = numbers(x, shape, 'x', 'f')
    except UserError: return
    assert got.isfinite().all() and got.ndim == len(shape) and all(n in (-1, k) for n,
                                                                   k in zip(shape, got.shape))


@quick
@given(anything, anything)
def test_any_camera(matrix, k):
    for check in (lambda: rigid(matrix, 'm', 'f'), lambda: pinhole(k, k, 1, 1, matrix, k, 'f')):
        try: check()
        except UserError as e: assert 'f: ' in str(e)


@quick
@given(st.text(max_size=40)
       | st.lists(st.sampled_from(['..', '.', '/', '\\', 'a', '\0', '~', 'C:', ' ']),
                  max_size=12).map('/'.join),
       st.integers(0, 1))
def test_any_path_stays_inside(name, up):
    here = Path('/x/y/z')
    try: found = inside(here, name, up)
    except UserError: return
    assert os.path.normpath(found).startswith('/x/y' if up else '/x/y/z') and '..' not in found.parts


def test_json_of_a_million_frames(tmp_path):
    from spatialavatar0.clip.clip import Clip
    (tmp_path/'transforms.json').write_bytes(b'{"frames": [' + b','.join([b'{}']*1_000_001) + b']}')
    with pytest.raises(UserError, match='1000001 frames'): Clip(tmp_path)


def test_full_disk_and_read_only_folder(head, tmp_path):
    "An `OSError` of the disk's, which the command line tells in a line; nothing is left"
    import resource

    from spatialavatar0.clip.convert import convert
    from spatialavatar0.clip.samples import write_imavatar
    write_imavatar(tmp_path/'one', head, 16, 1)
    (tmp_path/'out').mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(OSError): convert(tmp_path/'one', tmp_path/'out/me', head)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before); signal.signal(signal.SIGXFSZ, old)
    assert not list((tmp_path/'out').iterdir())
    if os.geteuid():
        (tmp_path/'out').chmod(0o500)
        with pytest.raises(OSError): convert(tmp_path/'one', tmp_path/'out/me', head)


def test_names_with_spaces_and_letters(head, tmp_path):
    from spatialavatar0.clip.clip import Clip
    from spatialavatar0.clip.convert import convert
    from spatialavatar0.clip.samples import write_vhap
    here = tmp_path/'gr\u00fc\u00df \u56fe \U0001f600'
    write_vhap(here, head, 16, 2)
    data = json.loads((here/'transforms.json').read_text())
    for r in data['frames']:
        new = r['file_path'].replace('images/', 'images/\u00e9 \u56fe ')
        (here/r['file_path']).rename(here/new); r['file_path'] = new
    (here/'transforms.json').write_text(json.dumps(data, ensure_ascii=False), encoding='utf-8')
    for s in ('train', 'val', 'test'): (here/f'transforms_{s}.json').unlink()
    convert(here, tmp_path/'\u00fc out', head)
    assert np.isfinite(Clip(tmp_path/'\u00fc out', head)[3].image).all()
