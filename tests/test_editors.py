"Editors of every kind go through the loop, offline: paint, InstructPix2Pix in miniature, the adversary; CLIP scores"
import math
import tempfile
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close

from spatialavatar0.core import UserError
from spatialavatar0.edit.adversary import Adversary
from spatialavatar0.edit.clip import cosine, random_clip, score_edit, warped_frame_error
from spatialavatar0.edit.edit import Settings, edit
from spatialavatar0.edit.editor import as_view, views
from spatialavatar0.edit.paint import Layer, Paint, dye
from spatialavatar0.edit.prompts import COLOURS, KNOWN, REGIONS, clauses, parse
from spatialavatar0.edit.regions import find_regions, from_oklab, made_up, to_oklab

short = Settings(iterations=3)


@pytest.fixture(scope='module')
def avatar(): return made_up(2, size=48).avatar


@pytest.fixture(scope='module')
def frames(avatar): return views(avatar, 3, size=64)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), st.floats(.05, 1))
def test_light_is_a_factor_in_oklab(rgb, k):
    x = torch.tensor(rgb, dtype=torch.float64)
    assert_close(from_oklab(to_oklab(x)), x, atol=2e-4, rtol=0)
    linear = torch.where(x > .04045, ((x + .055)/1.055)**2.4, x/12.92)*k
    dimmed = torch.where(linear > .0031308, 1.055*linear**(1/2.4) - .055, 12.92*linear)
    assert_close(to_oklab(dimmed), to_oklab(x)*k**(1/3), atol=1e-4, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(COLOURS)), st.sampled_from(sorted(REGIONS)),
       st.sampled_from(('make her {r} {c}', '{c} {r}', 'turn his {r} to a {c}', 'give them {c} {r}, please')))
def test_any_colour_for_any_region(colour, region, form):
    prompt = form.format(r=region, c=colour)
    if 'please' in prompt:
        with pytest.raises(UserError, match="'please'"): parse(prompt)
        return
    layers = [layer for coat in parse(prompt).coats for layer in coat]
    assert [layer.region for layer in layers] == [REGIONS[region]]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_an_edit_or_a_user_error(text):
    try: assert parse(text).coats
    except UserError as e: assert 'instruct-pix2pix' in str(e)


def test_words_and_fillers_do_not_overlap():
    assert all(clauses(w) == [[w]] for w in KNOWN - {'paint'})


def test_paint_through_the_loop_moves_hair_and_nothing_else(avatar, frames):
    editor, hair = parse('make her hair silver'), find_regions(avatar)['hair'] > .9
    reach = editor.reach(avatar)
    after = edit(avatar, frames, editor, Settings(iterations=12, attributes='colour', colour=.05), reach)
    moved = (after.gaussians.colour - avatar.gaussians.colour).abs().mean(-1)
    assert moved[~reach].max() == 0 and moved[hair].mean() > .1
    assert editor.caption() in str(after.made)


def test_a_paint_answers_the_same_whatever_the_render(avatar, frames):
    editor = Paint('pink', [[Layer('hair', dye('#ef7fb1'))]])
    original, view = as_view(frames[0], avatar)
    solid = view.alpha > .999
    a, b = (editor(x, original, view, None)[solid] for x in (original, original*.3 + .7))
    assert_close(a, b, atol=2e-3, rtol=0)


def test_tiny_instruct_pix2pix_through_the_loop(avatar, frames):
    diffusers = pytest.importorskip('diffusers')
    from spatialavatar0.edit.diffusers import InstructPix2Pix, random_pipeline
    assert diffusers.__version__
    editor = InstructPix2Pix(random_pipeline(), 'turn her into a bronze statue', size=32, steps=2)
    after = [edit(avatar, frames, editor, short) for _ in range(2)]
    colours = [a.gaussians.colour for a in after]
    assert torch.equal(*colours) and (colours[0] - avatar.gaussians.colour).abs().max() > 1e-3
    assert after[0].made['edits'][-1]['prompt'] == 'turn her into a bronze statue'


def test_no_weights_says_how_to_get_them():
    pytest.importorskip('diffusers')
    from spatialavatar0.edit.diffusers import load_pipeline
    with tempfile.TemporaryDirectory() as folder, pytest.raises(UserError, match='hf download'):
        load_pipeline(folder, 'cpu')


def test_the_adversary_joins_and_resumes(avatar, frames):
    joined, other = Adversary(), Adversary(seed=3)
    edit(avatar, frames, parse('pink hair'), Settings(iterations=6), adversary=joined)
    assert joined.tensors()['adam.layers.0.weight.step'] == 1  # the last of six steps
    other.load_state_dict(joined.state_dict())
    E, R = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    assert joined.update(E, R) == other.update(E, R)


def test_paint_begins_baked_and_inside_the_region(avatar, frames):
    editor, how = parse('bronze statue'), Settings(iterations=1, bake=True)
    left = find_regions(avatar)['hair'] > .5
    after = edit(avatar, frames, editor, how, left)
    assert torch.equal(after.gaussians.colour[~left], avatar.gaussians.colour[~left])
    assert (after.gaussians.colour - editor.bake(avatar).gaussians.colour)[left].abs().max() < .02


def test_the_adversary_next_door(avatar, frames):
    "It sees what the editor made of the frames beside, in the colours of pictures; a set of views has nobody next door"
    class Spy(Adversary):
        def generator_loss(self, edited, render, near=()):
            seen.extend(near)
            return super().generator_loss(edited, render, near)
    film, seen, how = [replace(frames[0], timestep=t) for t in range(3)], [], Settings(iterations=6, adversary=.5)
    editor, joined = parse('pink hair'), Spy('adjacent', steady=6.)
    edit(avatar, film, editor, how, adversary=joined)
    want = editor(*as_view(film[0], avatar)[:1]*2, as_view(film[0], avatar)[1])
    assert len(seen) == 4 and joined.tensors()['adam.layers.0.weight.step'] == 3
    for near in seen: assert_close(near, want, atol=.02, rtol=0)
    seen.clear()
    edit(avatar, frames, editor, how, adversary=joined)
    assert not seen and joined.tensors()['adam.layers.0.weight.step'] == 3


def test_tiny_clip_scores_an_edit(avatar, frames):
    pytest.importorskip('transformers')
    originals = [as_view(f, avatar)[0] for f in frames]
    editor = parse('bronze statue')
    edits = [editor(o, *as_view(f, avatar), None) for o, f in zip(originals, frames)]
    s = score_edit(random_clip(), originals, edits, 'a face', editor.caption())
    assert all(-1 <= x <= 1 for x in s)
    same = score_edit(random_clip(), originals, originals, 'a face', editor.caption())
    assert math.isnan(same.clip_s) and math.isnan(same.clip_c_direction) and not math.isnan(same.clip_c_frame)


def test_warped_frame_error_sees_a_flicker(avatar):
    frames = views(avatar, 3, size=64, spread=5., names=('rest',))
    images, codes = [as_view(f, avatar)[0] for f in frames], [f.codes for f in frames]
    cameras = [f.camera for f in frames]
    still = warped_frame_error(avatar, images, codes, cameras)
    assert warped_frame_error(avatar, [x + .1*(t % 2) for t, x in enumerate(images)], codes, cameras) > still + .05


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4))
def test_cosine_is_between_minus_one_and_one_or_nan(x):
    a, b = torch.tensor(x).double().split(2)
    c = cosine(a, b)
    assert c.isnan() or -1 - 1e-6 <= c <= 1 + 1e-6
    assert c.isnan() == bool(min(a.norm(), b.norm()) <= 1e-6)
