"Made-up people: what every capture must keep, whatever the seed"
import pytest
import torch
from torch.testing import assert_close

from spatialavatar0.clip.easel import CUTS
from spatialavatar0.clip.faces import looks, somebody
from spatialavatar0.clip.people import HELD_OUT, capture, people
from spatialavatar0.head.mesh import render_mesh

SMALL = dict(size=64, texture=128)


@pytest.mark.parametrize('kind, n', [('mono', 3), ('multi', 6)])
def test_is_a_sequence(kind, n):
    c = capture(11, kind, n_frames=3 if kind == 'mono' else 2, n_cameras=3, **SMALL)
    assert len(c) == len(list(c)) == len(c.timesteps) == len(c.camera_ids) == len(c.codes()) == n
    assert c.timesteps == sorted(c.timesteps) and c.timesteps[0] == 0
    assert torch.equal(c[-1].image, c[n - 1].image) and [f.timestep for f in c[:2]] == c.timesteps[:2]
    for i, f in enumerate(c):
        assert (f.timestep, f.camera_id) == (c.timesteps[i], c.camera_ids[i])
        assert f.image.shape == (64, 64, 3) and f.alpha.shape == (64, 64) and f.codes.head == c.head_id
        assert 0 <= f.image.min() and f.image.max() <= 1 and f.image.isfinite().all()
        assert torch.equal(f.camera.K, c.camera(i).K)
    with pytest.raises(IndexError): c[n]


def test_order_of_asking_does_not_matter():
    a, b = (capture(12, 'multi', n_frames=2, n_cameras=2, keep=k, **SMALL) for k in (1, 64))
    forwards, backwards = [f.image for f in a], [b[i].image for i in reversed(range(4))][::-1]
    assert all(map(torch.equal, forwards, backwards))


def test_more_cameras_and_frames_leave_the_person_alone():
    few, many = (capture(13, 'multi', n_frames=2, n_cameras=n, **SMALL) for n in (2, 5))
    assert torch.equal(few.codes(0).shape, many.codes(0).shape)
    assert torch.equal(few.who.texture, many.who.texture)
    assert_close(few.codes(0).neck, many.codes(0).neck)
    assert torch.equal(capture(13, 'mono', **SMALL).codes(0).shape, few.codes(0).shape)


@pytest.mark.parametrize('seed', [21, 22, 23])
def test_alpha_is_the_outline_and_landmarks_lie_on_it(seed):
    c = capture(seed, n_frames=2, size=96, texture=128)
    f, v = c[1], c.head.vertices(c.codes(1), c.who.offset)
    assert (render_mesh(v, c.head.faces, f.camera, samples=2)[1] - f.alpha).abs().mean() < 1e-3
    x, y = f.camera.project(c.head.landmarks(c.head.vertices(f.codes)))[0].long().unbind(-1)
    inside = (x >= 0) & (x < 96) & (y >= 0) & (y < 96)
    assert inside.float().mean() > .95 and (f.alpha[y[inside], x[inside]] > .9).float().mean() > .98


def test_people_differ():
    faces = [looks(s) for s in HELD_OUT]
    assert len({f.cut for f in faces}) > 6 and len({f.cut for f in faces} - CUTS.keys()) == 0
    skin = torch.stack([f.skin for f in faces]).mean(-1)
    assert skin.min() < .45 and skin.max() > .7 and max(f.years for f in faces) > 60
    pictures = [next(people([s], n_frames=1, **SMALL))[0].image for s in HELD_OUT[:3]]
    assert all((a - b).abs().mean() > .02 for a, b in zip(pictures, pictures[1:]))


def test_faces_stay_where_they_are():
    for seed in range(8):
        who = somebody(seed, 64)
        for part in ('left_eyelids', 'right_eyelids', 'left_eye', 'upper_teeth', 'lips'):
            assert who.offset[who.head.parts[part]].norm(dim=-1).max() < 2e-3, (seed, part)


@pytest.mark.parametrize('wrong', [dict(kind='stereo'), dict(seed=-1)])
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): capture(**(dict(seed=0) | wrong))
