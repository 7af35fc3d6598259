"The generator in the forms that its notebook does not show: other pools, encoders, precisions, on the open head"
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from spatialavatar0.clip.synthetic import film, person
from spatialavatar0.generate import generator
from spatialavatar0.generate.generator import Config, Generator
from spatialavatar0.generate.heads import ATTRIBUTES
from spatialavatar0.generate.losses import Weights, generator_loss
from spatialavatar0.head.model import HeadCodes, open_head
from spatialavatar0.head.uv import UVLayout

config = Config(grid=32, channels=4, picture=64, feature=8, summary=16, width=8, most=16, levels=2, style=8, memory=2)


@pytest.fixture(scope='module')
def frames():
    views = dict(front=0., left=40., right=-70.)
    return list(film(person(1, 128), 4, 64, views, [0, 2], background=.4))


def loss(net, frames, **kwargs):
    "Two people, one with one source, one with three; two targets"
    sources, targets = [frames[:1], frames[1:4]], frames[4:]
    codes = HeadCodes.stack([t.codes for t in targets])
    avatars, maps = net(sources, codes, [t.camera for t in targets])
    rendered = [a.render(t.codes, t.camera) for a, t in zip(avatars, targets)]
    return generator_loss(rendered, targets, maps, net, **kwargs)


def used(net): return {name for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize('changes', [dict(), dict(pooling='attention'), dict(residual=False)], ids=str)
def test_every_form_trains(frames, changes):
    net = Generator(replace(config, **changes))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    weights = Weights(delta=1e-2)
    for _ in range(3):
        terms = loss(net, frames, weights=weights, background=torch.tensor([.2, .6, .4]))
        optimizer.zero_grad(); terms['total'].backward(); optimizer.step()
    assert used(net) == {name for name, _ in net.named_parameters()}  # what two processes need to agree on
    assert all(torch.isfinite(p).all() for p in net.parameters())
    assert set(terms) == {'l1', 'ms', 'box', 'ps', 'ss', 'jac', 'delta', 'total'}
    assert_close(terms['total'], sum(getattr(weights, k)*x for k, x in terms.items() if k != 'total'))


def test_dino_trains_its_head_alone(frames, monkeypatch):
    monkeypatch.setitem(generator.SIZES, 'S', (48, 4, 4))
    net = Generator(replace(config, encoder='dinov3', encoder_path='random S'))
    before = {k: x.clone() for k, x in net.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-3)
    net.train()
    for _ in range(2): optimizer.zero_grad(); loss(net, frames)['total'].backward(); optimizer.step()
    changed = {k for k, x in net.state_dict().items() if not torch.equal(x, before[k])}
    assert not any('vit' in k for k in changed) and any(k.startswith('encoder.head') for k in changed)


def test_mixed_precision_is_near(frames):
    net = Generator(config)
    for p in net.heads.parameters(): torch.nn.init.normal_(p, std=.1)
    args = [frames[:1], frames[1:3]], HeadCodes.stack([f.codes for f in frames[:2]]), [f.camera for f in frames[:2]]
    with torch.no_grad():
        avatars, maps = net(*args)
        with torch.autocast('cpu', torch.bfloat16): mixed, rough = net(*args)
    assert_close(rough.gamma, maps.gamma, atol=0, rtol=0)
    for a in ATTRIBUTES:
        x, y = getattr(maps, a), getattr(rough, a).float()
        assert (x - y).abs().mean() < .1*x.abs().mean()
    assert all(g.gaussians.xyz.dtype == torch.float32 for g in mixed)


def test_no_gradients_no_jacobian(frames):
    net = Generator(config)
    with torch.no_grad(): terms = loss(net, frames)
    assert 'jac' not in terms and not terms['total'].requires_grad


def test_untrained_avatar_looks_like_its_picture():
    "On the network's grid, and better so on a finer one, which takes its colours from the picture in full size"
    net, f = Generator(replace(config, grid=64)), next(film(person(1, 256), 4, 192, which=[2], background=.4))
    error = []
    for layout in (None, UVLayout(net.head, 128)):
        image, alpha = net.avatar([f], layout).render(f.codes, f.camera)
        inner = (f.alpha > .99) & (alpha > .99)
        error.append((image - f.image)[inner].abs().mean())
    assert error[1] < error[0] < .06


def test_a_shell_from_the_side():
    "Seen from the side an ear stands before the middle of the skull; without the ears there is a hole"
    from spatialavatar0.clip.people import capture
    from spatialavatar0.generate.shell import shell
    frame = capture(1, 'mono', size=64)[21]
    assert shell(open_head(), frame.codes, frame.camera, frame.alpha).isfinite().all()
