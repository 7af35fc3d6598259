"The contract of the folders that we write: what GaussianAvatars' and VHAP's own readers ask for"
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from spatialavatar0.clip.clip import Clip
from spatialavatar0.clip.convert import READERS, convert, read_recordings, recognise
from spatialavatar0.clip.samples import SAMPLES, flame_like, tip
from spatialavatar0.head.model import CODES


@pytest.fixture(scope='module')
def head(): return flame_like()


@pytest.fixture(scope='module')
def clip(head, tmp_path_factory):
    "Ten instants of two cameras"
    folder = tmp_path_factory.mktemp('clip')
    SAMPLES['vhap'](folder/'source', head, 24, 10)
    for s in ('train', 'val', 'test'): (folder/f'source/transforms_{s}.json').unlink()
    convert(folder/'source', folder/'clip', head)
    return folder/'clip'


def frames(clip, split=''):
    return json.loads((clip/f"transforms{split and '_' + split}.json").read_text())['frames']


def test_the_folder_is_one_of_gaussianavatars(clip):
    "It tells the layout by canonical_flame_param.npz, and wants these three files"
    assert (clip/'canonical_flame_param.npz').is_file()
    assert all((clip/f'transforms_{s}.json').is_file() for s in ('train', 'val', 'test'))
    assert {p.name for p in clip.iterdir() if p.is_dir()} == {'images', 'fg_masks', 'flame_param'}


def test_top_level_keys(clip):
    data = json.loads((clip/'transforms.json').read_text())
    shared = {'cx', 'cy', 'fl_x', 'fl_y', 'h', 'w', 'camera_angle_x', 'camera_angle_y'}
    assert {'frames', 'camera_indices', 'timestep_indices'} | shared <= set(data)
    assert data['camera_indices'] == [0, 1] and data['timestep_indices'] == list(range(10))


def test_keys_and_types_of_a_frame(clip):
    "`camera_index` is kept by GaussianAvatars only where `camera_id` is there"
    kinds = dict(timestep_index=int, timestep_index_original=int, timestep_id=str, camera_index=int,
                 camera_id=str, cx=float,
                 cy=float, fl_x=float, fl_y=float, h=int, w=int, camera_angle_x=float, camera_angle_y=float,
                 transform_matrix=list, file_path=str, fg_mask_path=str, flame_param_path=str)
    for r in frames(clip):
        assert {k: type(x) for k, x in r.items()} == kinds
        assert np.shape(r['transform_matrix']) == (4, 4) and r['transform_matrix'][3] == [0, 0, 0, 1]
        for size, f, angle in ((r['w'], r['fl_x'], r['camera_angle_x']),
                               (r['h'], r['fl_y'], r['camera_angle_y'])):
            assert math.isclose(angle, 2*math.atan(size/(2*f)), rel_tol=1e-9)


def test_names(clip):
    "Five digits of the instant, two of the camera"
    for r in frames(clip):
        t, c = r['timestep_index'], r['camera_index']
        assert (r['file_path'], r['fg_mask_path']) == (f'images/{t:05d}_{c:02d}.png',
                                                       f'fg_masks/{t:05d}_{c:02d}.png')
        assert r['flame_param_path'] == f'flame_param/{t:05d}.npz'
    named = {r[k] for r in frames(clip) for k in ('file_path', 'fg_mask_path', 'flame_param_path')}
    assert named == {p.relative_to(clip).as_posix() for p in clip.glob('*/*')}


def test_pictures(clip):
    for r in frames(clip):
        with Image.open(clip/r['file_path']) as p: assert p.mode == 'RGB' and p.size == (r['w'], r['h'])
        with Image.open(clip/r['fg_mask_path']) as p: assert p.mode == 'L' and p.size == (r['w'], r['h'])


shapes = dict(translation=(1, 3), rotation=(1, 3), neck_pose=(1, 3), jaw_pose=(1, 3), eyes_pose=(1, 6),
              shape=(300,),
              expr=(1, 100), static_offset=(1, 5143, 3))


def test_flame_param(clip):
    "Every key, its shape, float32; the shape of the person never changes"
    found = []
    for t in range(10):
        with np.load(clip/f'flame_param/{t:05d}.npz') as z:
            assert {k: z[k].shape for k in z.files} == shapes and {z[k].dtype
                                                                   for k in z.files} == {np.dtype('f4')}
            found.append(z['shape'])
    assert all((x == found[0]).all() for x in found)


def test_canonical_flame_param(clip):
    "Neutral, but for the person and a jaw that is 0.3 open"
    with np.load(clip/'canonical_flame_param.npz') as z: a = dict(z)
    assert {k: x.shape for k, x in a.items()} == shapes
    np.testing.assert_allclose(a.pop('jaw_pose'), [[.3, 0, 0]], atol=1e-7)
    with np.load(clip/'flame_param/00000.npz') as z: assert (a.pop('shape') == z['shape']).all()
    assert not any(x.any() for x in a.values())


def test_splits(clip):
    "The first 70 % of the instants, rounded up, train; the last camera validates; the rest tests"
    found = {s: {(r['timestep_index'], r['camera_index']) for r in frames(clip, s)}
             for s in ('train', 'val', 'test')}
    assert found == dict(train={(t, 0) for t in range(7)}, val={(t, 1) for t in range(7)},
                         test={(t, c) for t in range(7, 10) for c in (0, 1)})
    assert 0 in {t for t, _ in found['train']}


def test_camera_as_gaussianavatars_computes_it(clip, head):
    "Axes 1 and 2 negated, inverted; one angle for both; the principal point in the middle"
    codes = Clip(clip, head).codes()
    for i, r in enumerate(frames(clip)):
        M = np.array(r['transform_matrix'])
        M[:3, 1:3] *= -1
        x = np.linalg.inv(M) @ [*head.vertices(codes[i])[tip(head)].double().numpy(), 1]
        f = r['w']/2/math.tan(r['camera_angle_x']/2)
        want = np.array([r['w']/2 + f*x[0]/x[2], r['h']/2 + f*x[1]/x[2]])
        got = Clip(clip, head).camera(i).project(head.vertices(codes[i])[tip(head)])[0].numpy()
        np.testing.assert_allclose(got, want, atol=2e-3)


@pytest.mark.parametrize('name', SAMPLES)
def test_reader(name, head, tmp_path):
    "The known point on its known pixel, the vertices as they were; and once more after conversion"
    seen = SAMPLES[name](tmp_path/'one', head, 32)
    assert recognise(tmp_path/'one') == name and name in READERS
    tape, = read_recordings(tmp_path/'one', head)
    assert len(tape) == len(seen) and re.search(name, repr(tape))
    for frame, s in zip(tape, seen):
        vertices = s.vertices if frame.codes is None else head.vertices(frame.codes, frame.offset)
        torch.testing.assert_close(vertices, s.vertices, rtol=0, atol=1e-6)
        if frame.camera is None: continue
        xy, depth = frame.camera.project(vertices[tip(head)])
        np.testing.assert_allclose(xy.double().numpy(), s.xy, atol=1e-3)
        assert depth > 0
    if tape[0].image is None or tape[0].codes is None: return
    convert(tmp_path/'one', tmp_path/'clip', head)
    for a, b in zip(tape, Clip(tmp_path/'clip', head)):
        for k in CODES: assert torch.equal(getattr(a.codes, k), getattr(b.codes, k))
        torch.testing.assert_close(a.camera.world_to_camera, b.camera.world_to_camera, rtol=0, atol=1e-5)
        torch.testing.assert_close(a.image, b.image, rtol=0, atol=.51/255)


def test_without_teeth(tmp_path):
    "Codes of a FLAME of 5023 vertices, and of one that is none"
    from spatialavatar0.core import UserError
    from spatialavatar0.head.model import toy_head
    bald = flame_like(5023)
    SAMPLES['gagavatar'](tmp_path/'one', bald, 32)
    assert len(read_recordings(tmp_path/'one', bald)[0]) == 3
    for name in set(SAMPLES) - {'nersemble', 'gagavatar'}: SAMPLES[name](tmp_path/name, bald, 16, 1)
    for name in set(SAMPLES) - {'nersemble', 'gagavatar'}:
        with pytest.raises(UserError, match='FLAME'): read_recordings(tmp_path/name, toy_head(rows=8))
