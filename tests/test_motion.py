"Motions from anybody: damaged files end in one line, and what is tracked, recorded or spoken moves a face"
import csv
import io
import json
import random
import wave

import numpy as np
import pytest
import torch
from spatialavatar0.cli import main
from spatialavatar0.core import UserError
from spatialavatar0.drive.arkit import ACTIONS, TURNS, read_csv, read_json
from spatialavatar0.drive.montage import joined, looped, only, retimed, smoothed
from spatialavatar0.drive.motion import TRACKS, Motion
from spatialavatar0.drive.presets import PRESETS, preset
from spatialavatar0.drive.transfer import borrowed, resting
from spatialavatar0.drive.voice import from_wav, read_wav
from spatialavatar0.head.model import open_head, toy_head
from spatialavatar0.head.uv import UVLayout
from spatialavatar0.splat.avatar import Avatar


def as_csv(motion):
    out = io.StringIO()
    w = csv.writer(out)
    w.writerow(['Timecode', 'BlendShapeCount', *(n[0].upper() + n[1:] for n in (*ACTIONS, *TURNS))])
    curve = dict(zip(motion.names, motion.expression.T.tolist()))
    for t in range(len(motion)):
        w.writerow([f'01:02:{t//30:02d}:{t % 30:02d}.000', 61, *(curve[a][t] if a in curve else 0 for a in ACTIONS),
                    *[0.]*len(TURNS)])
    return out.getvalue().encode()


def as_json(motion):
    rows = [dict(weights=r, time=t/30) for t, r in enumerate(motion.expression.tolist())]
    return json.dumps(dict(names=motion.names, frames=rows)).encode()


def as_wav(motion):
    out = io.BytesIO()
    with wave.open(out, 'wb') as f:
        f.setnchannels(1); f.setsampwidth(2); f.setframerate(8000)
        f.writeframes((3000*np.sin(np.arange(8000)*.3)).astype('<i2').tobytes())
    return out.getvalue()


def as_npz(motion):
    out = io.BytesIO()
    d = {k: getattr(motion, k).numpy() for k in TRACKS}
    np.savez(out, format='spatialavatar0 motion', version=1, fps=30., head='', names=np.array(motion.names, str), **d)
    return out.getvalue()


kinds = {'.csv': (as_csv, read_csv), '.json': (as_json, read_json), '.wav': (as_wav, from_wav), '.npz': (as_npz, Motion.load)}


def mutated(data, rng):
    "One thing changed, as often as not in the beginning, where files say what they are"
    data, at = bytearray(data), rng.randrange(rng.choice((len(data), min(len(data), 60))))
    how = rng.randrange(7)
    if how == 0: data[at] ^= 1 << rng.randrange(8)
    elif how == 1: del data[at:]
    elif how == 2: del data[at:at + rng.randint(1, 200)]
    elif how == 3: data[at:at] = data[at:at + rng.randint(1, 200)]
    elif how == 4: data[at:at + 1] = rng.choice((b',', b'"', b'\n', b'[', b'{', b'nan', b'1e999', b'-', b'null', b'\xff'))
    elif how == 5: data[at:at + 4] = b'\xff\xff\xff\xff'
    else: data = data[:at] + data[rng.randrange(len(data)):]
    return bytes(data)


@pytest.mark.parametrize('kind', kinds)
def test_damaged_motions_end_in_one_line(kind, tmp_path):
    "Or are motions: finite, with frames"
    write, read = kinds[kind]
    motion = retimed(preset('smile'), 30)
    rng, whole, refused = random.Random(kind), write(motion), 0
    (tmp_path/f'good{kind}').write_bytes(whole)
    assert len(read(tmp_path/f'good{kind}')) > 10
    bad = tmp_path/f'bad{kind}'
    for _ in range(150):
        bad.write_bytes(mutated(whole, rng))
        try: got = read(bad)
        except UserError as e:
            refused += 1
            assert str(e).startswith(str(bad)) and '\n' not in str(e)
        else: assert len(got) and all(getattr(got, k).isfinite().all() for k in TRACKS) and got.fps > 0
    assert refused > 30


@pytest.mark.parametrize('kind', kinds)
def test_one_kind_taken_for_another(kind, tmp_path):
    for other, (write, _) in kinds.items():
        if other == kind: continue
        path = tmp_path/f'other{kind}'
        path.write_bytes(write(preset('blink')))
        with pytest.raises(UserError, match=f'other{kind}'): kinds[kind][1](path)


def test_a_quote_that_is_never_closed(tmp_path):
    "The rest of a long recording is one cell, more than `csv` takes"
    (tmp_path/'a.csv').write_bytes(as_csv(preset('demo', 60.)).replace(b'\n', b'\n"', 1))
    with pytest.raises(UserError, match='a.csv: not a table'): read_csv(tmp_path/'a.csv')


def test_a_damaged_motion_on_the_command_line(tmp_path, capfd):
    Avatar.rest(toy_head(), UVLayout(toy_head(), 16)).save(tmp_path/'a.safetensors')
    toy_head().save(tmp_path/'toy.npz')
    (tmp_path/'bad.npz').write_bytes(as_npz(preset('blink'))[:700])
    status = main(['drive', str(tmp_path/'a.safetensors'), '--motion', str(tmp_path/'bad.npz'), '-o',
                   str(tmp_path/'f.mp4'), '--head', str(tmp_path/'toy.npz')])
    said = capfd.readouterr().err.strip()
    assert status == 2 and said.count('\n') == 0 and 'bad.npz' in said and not (tmp_path/'f.mp4').exists()


def test_every_preset_moves_the_open_head_and_ends_where_it_began():
    head = open_head()
    for name in PRESETS:
        m = preset(name)
        assert set(m.names) <= set(head.expression_names)
        v = head.vertices(m.codes(head)[torch.arange(0, len(m), max(1, len(m)//12))])
        assert v.isfinite().all() and (v - v[:1]).norm(dim=-1).max() > 1e-3, name


def test_phone_and_film_give_the_same_motion(tmp_path):
    "The same movement through a recording and through tracked codes"
    head, motion = open_head(), only(retimed(preset('demo'), 30), 'mouth')
    (tmp_path/'a.csv').write_bytes(as_csv(motion))
    phone = read_csv(tmp_path/'a.csv')
    film = borrowed(motion.codes(head), head, phone.fps, head.codes())
    assert phone.fps == film.fps == 30
    a, b = (m.codes(head).expression for m in (phone, film))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_rest_does_not_depend_on_how_a_clip_is_cut():
    "A quarter more or less of the same film finds the same person at rest"
    head = open_head()
    codes = preset('speech').codes(head, head.codes().replace(expression=torch.full((53,), .1)))
    whole, part = resting(codes, head), resting(codes[:75], head)
    assert (whole.expression - part.expression).abs().max() < .05
    assert (whole.expression - .1).abs().max() < .06


def test_a_day_of_montage():
    "Nothing that is done to a motion makes it jump or leave its range"
    m = preset('demo')
    for made in (smoothed(m), retimed(m, 60), looped(m), joined(m, preset('yes')), retimed(smoothed(looped(m)), speed=.5)):
        assert made.expression.min() > -1e-4 and made.expression.max() < 1.001
        pace = made.neck.diff(dim=0).norm(dim=-1).max()*made.fps
        assert pace < 1.3*m.neck.diff(dim=0).norm(dim=-1).max()*m.fps + .5


def test_sound_of_any_rate_and_length(tmp_path):
    for rate in (8000, 22050, 44100, 48000):
        t = np.arange(rate)/rate
        x = .4*np.sign(np.sin(2*np.pi*140*t))*(t > .4)
        with wave.open(str(tmp_path/'a.wav'), 'wb') as f:
            f.setnchannels(1); f.setsampwidth(2); f.setframerate(rate); f.writeframes((x*32000).astype('<i2').tobytes())
        assert read_wav(tmp_path/'a.wav')[1] == rate
        m = from_wav(tmp_path/'a.wav', 50.)
        jaw = m.expression[:, m.names.index('jawOpen')]
        assert len(m) == 50 and jaw[:15].max() < .05 < .1 < jaw[25:45].mean() and m.expression.max() <= 1
