"Editing: what is hidden stays as it was, a run that is killed goes on, and what editors must not do"
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from torch.autograd import grad

from spatialavatar0.camera import Camera
from spatialavatar0.core import UserError
from spatialavatar0.edit.adam import GatedAdam
from spatialavatar0.edit.adversary import Adversary, Agreement
from spatialavatar0.edit.compose import blend, graft, mix_gaussians, undo
from spatialavatar0.edit.edit import ATTRIBUTES, Settings, edit, identity
from spatialavatar0.edit.editor import FACES, Jitter, Recolour, face, paint, views
from spatialavatar0.edit.run import run
from spatialavatar0.edit.wabe import MODES, fade, gates, render_wabe
from spatialavatar0.head.model import HeadModel, open_head, toy_head
from spatialavatar0.head.uv import UVLayout
from spatialavatar0.runs import Stopped
from spatialavatar0.splat.avatar import Avatar
from spatialavatar0.splat.gaussians import Gaussians, WorldGaussians

quick, blue = Settings(iterations=12, colour=.05), paint((.1, .2, .9))


@pytest.fixture(scope='module')
def egg():
    head = toy_head()
    return Avatar.rest(head, UVLayout(head, 24), colour=.6)


@pytest.fixture(scope='module')
def frames(egg): return views(egg, 4, size=32)


def scene(n, seed, spread=.15):
    "Gaussians before a camera of 24 x 20 pixels"
    g = torch.Generator().manual_seed(seed)
    draw = lambda *k: torch.randn(n, *k, generator=g, dtype=torch.float64)
    xyz = draw(3)*spread + torch.tensor([0, 0, .6], dtype=torch.float64)
    world = WorldGaussians(xyz, draw(4), .05*(.6*draw(3)).exp(), draw(3).sigmoid(), (2*draw() + 1).sigmoid())
    K = torch.tensor([[26., 0, 12], [0, 24, 10], [0, 0, 1]], dtype=torch.float64)
    return world, Camera(K, torch.eye(4, dtype=torch.float64), 24, 20)


def slopes(world, camera, mode, backend, beta):
    x = [a.detach().clone().requires_grad_() for a in world]
    image, alpha = render_wabe(WorldGaussians(*x), camera, None, beta, mode, backend)
    up = torch.linspace(-1, 1, image.numel(), dtype=torch.float64).reshape(image.shape).to(image)
    return [image.detach(), *grad((up*image).sum() + alpha.square().sum(), x)]


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.integers(1, 80), st.integers(0, 10**6), st.sampled_from(('backward', 'forward')), st.sampled_from((.5, 6., 20.)))
def test_processor_agrees_with_the_lists(n, seed, mode, beta):
    world, camera = scene(n, seed)
    want = slopes(world, camera, mode, 'reference', beta)
    got = slopes(WorldGaussians(*(a.float() for a in world)), camera, mode, 'cpu', beta)
    for name, a, b in zip(('image', *WorldGaussians._fields), want, got):
        assert (a - b).norm() <= 2e-3*a.norm() + 1e-4, name


@pytest.mark.parametrize('mode', MODES)
def test_one_layer_is_ordinary(mode):
    "Nothing is in front of a single Gaussian, so no weight can change it"
    world, camera = scene(1, 4, 0.)
    for a, b in zip(slopes(world, camera, mode, 'reference', 6.), slopes(world, camera, 'gate', 'reference', 6.)):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_gate_falls_with_what_is_in_front():
    "The more opaque the first of two sheets, the less the second one may move; the first always may"
    K = torch.tensor([[40., 0, 20], [0, 40, 20], [0, 0, 1]])
    camera, shares = Camera(K, torch.eye(4), 40, 40), []
    for opacity in (.2, .5, .75, .9, .99):
        xyz, size = torch.tensor([[0, 0, 1.], [0, 0, 1.1]]), torch.tensor([[3, 3, .001]]).repeat(2, 1)
        world = WorldGaussians(xyz, torch.eye(4)[:1].repeat(2, 1), size, torch.rand(2, 3), torch.tensor([opacity, .9]))
        first, second = gates(world, camera, faint=.12, clear=.9).tolist()
        assert first == 1
        shares.append(second)
    assert shares == sorted(shares, reverse=True) and shares[0] > .1 and shares[-2:] == [0, 0]


def test_beta_as_published():
    assert [round(fade(T), 4) for T in (1, .5, .1)] == [1, .0498, .0045]


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from((0., 1e-6, .3, 1.)), min_size=1, max_size=12), st.integers(0, 999))
def test_gated_steps_that_are_shut_never_were(pattern, seed):
    "Leaving out all steps with a gate of 0 changes nothing"
    def walk(gates):
        x = Gaussians(*(torch.zeros(1, *k) for k in ((3,), (4,), (3,), (3,), ()))).requires_grad_()
        adam = GatedAdam(x, ATTRIBUTES)
        for i, gate in gates:
            g = torch.Generator().manual_seed(seed + i)
            for a in x.parameters().values(): a.grad = torch.randn(a.shape, generator=g)
            adam.step(dict.fromkeys(ATTRIBUTES, .1), torch.tensor([gate]))
        return [a.detach() for a in x.parameters().values()]
    steps = list(enumerate(pattern))
    for a, b in zip(walk(steps), walk([s for s in steps if s[1] > 0])): assert torch.equal(a, b) and a.isfinite().all()


def test_faces_are_known_to_the_open_head():
    "So that views show teeth and lids; and no name is misspelt"
    names = {action for actions in FACES.values() for action in actions}
    assert names <= set(open_head().expression_names)
    moved = [(open_head().vertices(face(open_head(), k)) - open_head().v_template).norm(dim=-1).max() for k in FACES]
    assert moved[0] < 1e-6 and min(moved[1:]) > .002


def test_what_the_region_leaves_out_stays(egg, frames):
    "To the bit, in every attribute"
    region = torch.arange(len(egg.gaussians)) % 3 == 0
    edited = edit(egg, frames, Jitter(blue), quick, region=region)
    for a, b in zip(edited.gaussians.parameters().values(), egg.gaussians.parameters().values()):
        assert torch.equal(a[~region], b[~region]) and (a[region] != b[region]).any()


def test_an_edited_avatar_is_an_avatar(egg, frames, tmp_path):
    "It is saved and loaded, edited again, mixed, and undone"
    once = edit(egg, frames, blue, quick)
    twice = edit(once, views(once, 4, size=32), Recolour(((0, 0, 1), (0, 1, 0), (1, 0, 0))), quick)
    for name, a in dict(egg=egg, once=once, twice=twice).items(): a.save(tmp_path/f'{name}.safetensors')
    back = Avatar.load(tmp_path/'twice.safetensors', egg.head)
    assert identity(back) == identity(twice) and [e['editor'] for e in back.made['edits']] == ['paint', 'recolour']
    assert identity(undo(undo(back, tmp_path), tmp_path)) == identity(egg)
    assert identity(undo(blend(once, twice), tmp_path)) == identity(once)
    assert identity(graft(egg, once, torch.zeros(len(egg.gaussians), dtype=bool))) == identity(egg)


@hypothesis_settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_mixing_is_symmetric(seed, t):
    "t of the second is 1 - t of the first, as ellipsoids"
    g = torch.Generator().manual_seed(seed)
    draw = lambda *k: torch.randn(8, *k, generator=g, dtype=torch.float64)
    a, b = (Gaussians(draw(3), draw(4), draw(3), draw(3), draw()) for _ in range(2))
    p, q = mix_gaussians(a, b, torch.full((8,), t).double()), mix_gaussians(b, a, torch.full((8,), 1 - t).double())
    for name in ('xyz', 'colour', 'opacity_logit'):
        torch.testing.assert_close(getattr(p, name), getattr(q, name), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(p.log_scale.sum(-1), q.log_scale.sum(-1), atol=1e-6, rtol=1e-6)


class Stubborn:
    "An editor that gives back what it was told to"
    name = 'stubborn'
    def __init__(self, answer): self.answer = answer
    def caption(self): return 'no'
    def __call__(self, render, *_): return self.answer(render)


@pytest.mark.parametrize('answer, says', [(lambda x: x[:-1], 'got shape'), (lambda x: x*torch.nan, 'got NaN')])
def test_editor_that_gives_no_picture(egg, frames, answer, says):
    with pytest.raises(ValueError, match=f'picture by stubborn: {says}'): edit(egg, frames, Stubborn(answer), quick)


def test_editor_that_changes_nothing(egg):
    "The render is its own target; what is left of the gradient is rounding error, and must not move anything"
    same = edit(egg, views(egg, 1, size=256), Stubborn(lambda x: x*1), replace(quick, iterations=6))
    for name, a in same.gaussians.parameters().items():
        assert (a - egg.gaussians.parameters()[name]).abs().mean() < .5*getattr(quick, name), name


# What it prints: the identity of the avatar, and how often the adversary was asked
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from spatialavatar0.bench.edit import film
from spatialavatar0.edit.adversary import Adversary
from spatialavatar0.edit.edit import Settings, identity
from spatialavatar0.edit.editor import Jitter, camera_round, paint
from spatialavatar0.edit.run import run
from spatialavatar0.head.model import HeadModel
from spatialavatar0.splat.avatar import Avatar

folder, last = Path(sys.argv[1]), int(sys.argv[2])
egg = Avatar.load(folder/'egg.safetensors', HeadModel.load(folder/'head.npz'))

class Doomed:
    name, calls = 'doomed', 0
    def caption(self): return 'blue, shaky'
    def __call__(self, *args):
        self.calls += 1
        if self.calls == last: os.kill(os.getpid(), signal.SIGKILL)
        return Jitter(paint((.1, .2, .9)))(*args)

turned = [egg.codes().replace(neck=torch.tensor([0, .1*t, 0])) for t in range(4)]  # before one camera: neighbours
frames, = film(egg, turned, [camera_round(egg, size=32)])
rival = Adversary('adjacent', steady=6.)
settings = Settings(iterations=16, colour=.05, adversary=.25)
out = folder/f'{sys.argv[3]}.safetensors'
print(identity(run(egg, frames, Doomed(), out, settings, adversary=rival, resume=True, every=3)), int(rival.calls))
"""


def test_killed_and_resumed(egg, tmp_path):
    "By a signal that nobody can catch, with the adversary at work; the result is the same to the bit"
    egg.head.save(tmp_path/'head.npz')
    egg.save(tmp_path/'egg.safetensors')
    python = lambda *args: subprocess.run([sys.executable, '-c', KILLED, tmp_path, *args], capture_output=True, text=True)
    killed = python('11', 'me')
    assert killed.returncode == -signal.SIGKILL and (tmp_path/'me.checkpoint.safetensors').exists(), killed.stderr[-2000:]
    assert not (tmp_path/'me.safetensors').exists()
    resumed, whole = python('0', 'me'), python('0', 'whole')
    assert resumed.returncode == 0 and resumed.stdout == whole.stdout, resumed.stderr[-2000:]
    assert int(whole.stdout.split()[1]) >= 3*12  # thrice a step, from the fourth on
    assert not [p for p in os.listdir(tmp_path) if 'checkpoint' in p]


def test_a_checkpoint_knows_what_kept_frames_consistent(egg, frames, tmp_path):
    "A run that was stopped goes on with the same adversary, or not at all"
    out, stop = tmp_path/'a.safetensors', iter(range(9))

    def impatient(*args):
        if next(stop) == 4: os.kill(os.getpid(), signal.SIGINT)
        return blue(*args)
    impatient.name, impatient.caption = blue.name, blue.caption
    with pytest.raises(Stopped): run(egg, frames, impatient, out, quick, adversary=Agreement())
    for other in (None, Adversary()):
        with pytest.raises(UserError, match='of another run: adversary is'):
            run(egg, frames, blue, out, quick, adversary=other, resume=True)
    run(egg, frames, blue, out, quick, adversary=Agreement(), resume=True)


def test_damaged_checkpoints_are_refused(egg, frames, tmp_path):
    path = tmp_path/'a.checkpoint.safetensors'
    for junk in (b'', b'{}', b'\0'*100):
        path.write_bytes(junk)
        with pytest.raises(UserError, match='not a'): run(egg, frames, blue, tmp_path/'a.safetensors', quick, resume=True)
