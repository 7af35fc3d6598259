"What a release consists of: the wheel and the sdist, file by file, and what is said about them, against what is there"
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_string

import numpy as np
import pytest
import yaml
from project import copy_to, lib, root

beside = ['setup.py', 'MANIFEST.in', 'LICENSE', 'NOTICE', 'CHANGELOG.md', 'SECURITY.md', 'CITATION.cff', 'constraints.txt']
settings = ConfigParser(delimiters=['=']); settings.read(root/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "Wheel and sdist, made from a copy"
    source = copy_to(tmp_path_factory.mktemp('release'))
    for name in beside: shutil.copy(root/name, source)
    code = 'import setuptools.build_meta as b; b.build_wheel("dist"); b.build_sdist("dist")'
    subprocess.run([sys.executable, '-c', code], cwd=source, check=True, capture_output=True)
    wheel, = (source/'dist').glob('*.whl'); sdist, = (source/'dist').glob('*.tar.gz')
    return wheel, sdist


def shipped():
    "The files of the package"
    return {str(p.relative_to(root)) for p in lib.rglob('*') if p.is_file() and '__pycache__' not in p.parts}


def test_wheel_holds_the_package_and_nothing_else(built):
    "Each module, asset, configuration and file of the viewer, to the byte; the licence and the notice"
    with zipfile.ZipFile(built[0]) as z:
        names, info = set(z.namelist()), f"{lib.name}-{settings['version']}.dist-info"
        inside = {name for name in names if not name.startswith(info)}
        assert inside == shipped()
        assert {f'{info}/licenses/LICENSE', f'{info}/licenses/NOTICE'} <= names
        for kind in ('assets/*', 'configs/*.yaml', 'web/*'):
            there = [p for p in lib.glob(kind) if p.is_file()]
            assert there and all(z.read(str(p.relative_to(root))) == p.read_bytes() for p in there)
        big = {i.filename: i.file_size for i in z.infolist() if i.file_size > 20*2**20}
    assert not big and built[0].stat().st_size < 60*2**20, 'indexes take 100 MB a file at most'


def test_wheel_says_what_settings_say(built):
    with zipfile.ZipFile(built[0]) as z:
        read = lambda name: z.read(f"{lib.name}-{settings['version']}.dist-info/{name}").decode()
        about, scripts = message_from_string(read('METADATA')), read('entry_points.txt')
    assert (about['Name'], about['Version'], about['License']) == (settings['lib_name'], settings['version'], 'Apache-2.0')
    assert about['Requires-Python'] == f">={settings['min_python']}"
    extras = {key.removesuffix('_requirements') for key in settings if key.endswith('_requirements')}
    assert set(about.get_all('Provides-Extra')) == extras
    needed = ' '.join(r for r in about.get_all('Requires-Dist') if 'extra ==' not in r)
    assert not re.search(r'smplx|chumpy|anny|mediapipe|transformers|jupyter', needed), 'an extra has become a must'
    assert settings['console_scripts'].replace('=', ' = ', 1) in scripts


def test_sdist_can_be_built_and_read(built):
    with tarfile.open(built[1]) as t: names = {name.partition('/')[2] for name in t.getnames()}
    assert shipped() | {*beside, 'settings.ini', 'README.md', 'pyproject.toml'} <= names
    assert not [name for name in names if name.startswith(('tests', 'nbs'))]


def test_one_version():
    "In settings, package, citation and on top of the changelog"
    import spatialavatar0
    found = re.search(r'^## (\S+),', (root/'CHANGELOG.md').read_text(), flags=re.M)[1]
    cited = yaml.safe_load((root/'CITATION.cff').read_text())
    assert settings['version'] == spatialavatar0.__version__ == found == cited['version']


def test_citation():
    "The fields that CFF 1.2 asks for, and the same facts as in settings.ini"
    cited = yaml.safe_load((root/'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= cited.keys() and cited['cff-version'] == '1.2.0'
    same = dict(title='lib_name', abstract='description')
    same['repository-code'] = 'git_url'
    assert {k: cited[k] for k in same} == {k: settings[v] for k, v in same.items()}
    assert cited['url'] == settings['doc_host'] + settings['doc_baseurl']
    assert cited['license'] == 'Apache-2.0' and 'Apache License' in (root/'LICENSE').read_text()
    assert cited['authors'] == [{'name': settings['author']}] and cited['keywords'] == settings['keywords'].split()
    papers = {i['value'] for r in cited['references'] for i in r['identifiers']}
    assert papers == {'arXiv:2606.15659', 'arXiv:2501.09978'}


def test_notice_names_all_that_is_shipped():
    "Every asset, with the licence of what it derives from; and nothing that may not be shipped is an asset"
    notice, close = (root/'NOTICE').read_text(), (lib/'assets/NOTICE').read_text()
    for p in lib.glob('assets/*'):
        if p.name != 'NOTICE': assert p.name in notice and p.name in close, f'{p.name} is in no notice'
    assert all(word in notice for word in ('CC0 1.0', 'MakeHuman', 'Anny', 'Apache License'))
    with np.load(lib/'assets/open_head.npz', allow_pickle=False) as z:
        assert len(z['v_template']) not in (5023, 5143), "as many vertices as FLAME's"
    licensed = re.compile(r'flame|smplx|dinov3|pix2pix|arcface|\.pkl$|\.pth$', flags=re.I)
    assert not [name for name in shipped() if licensed.search(name) and not name.endswith('.py')]


def test_security_tells_the_truth():
    "Nothing is unpickled but by the list of names; torch and numpy are told so; YAML makes no objects"
    for p in lib.rglob('*.py'):
        text = p.read_text(encoding='utf-8')
        calls = re.findall(r'(torch\.load|np\.load|yaml\.\w*load)\(((?:[^()]|\([^()]*\))*)\)', text)
        wrong = [c for c in calls if c[0] == 'torch.load' and 'weights_only=True' not in c[1]
                 or c[0] == 'np.load' and 'allow_pickle=False' not in c[1]
                 or c[0].startswith('yaml') and c[0] != 'yaml.safe_load']
        assert not wrong, f'{p}: {wrong}'
        if p.name != 'stream.py':  # bytes that its own workers hand over
            assert not re.search(r'pickle\.loads?\(|(?<![.\w])(eval|exec)\(|shell=True|os\.system', text), p
