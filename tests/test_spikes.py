"The spike report against brute force in double precision, and repairs of any cloud, in memory and in files"
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.geometry import quaternion_to_rotation_matrix as matrix
from plyfile import PlyData, PlyElement
from safetensors import safe_open
from torch.nn.functional import normalize
from torch.testing import assert_close

from spatialavatar0.camera import Camera
from spatialavatar0.cli import main
from spatialavatar0.head.model import toy_head
from spatialavatar0.head.uv import UVLayout
from spatialavatar0.refine.refine import Settings
from spatialavatar0.refine.spikes import (LOCAL, SCALES, WORLD, aspect_ratio, clamp_log_scale_, elongation, extent,
                                          footprint_ratio, look_for_needles, percentiles, read_cloud, repair,
                                          repair_log_scale, spike_report, views)
from spatialavatar0.splat.avatar import Avatar
from spatialavatar0.splat.gaussians import WorldGaussians
from spatialavatar0.splat.ply import write_bound_ply, write_ply
from spatialavatar0.splat.reference import layers, project_gaussians, visible


def examples(n): return settings(max_examples=n, derandomize=True, deadline=None)


def cloud(seed, n=200, spread=1.5, dtype=torch.float64):
    "A ball of Gaussians of all shapes before a camera"
    g = torch.Generator().manual_seed(seed)
    randn, rand = (lambda *s, f=f: f(*s, generator=g, dtype=dtype) for f in (torch.randn, torch.rand))
    return WorldGaussians(.15*randn(n, 3), randn(n, 4), .01*(spread*randn(n, 3)).exp(), rand(n, 3), rand(n))


def camera(yaw=.3, size=40):
    eye = torch.tensor([math.sin(yaw), .2, math.cos(yaw)], dtype=torch.float64)
    return Camera.look_at(eye, torch.zeros(3, dtype=torch.float64), fov=35., width=size, height=size - 7)


# ---- the report

def test_world_ratios_are_those_of_the_covariance():
    "The square roots of its eigenvalues, whatever the rotation"
    world = cloud(0)
    M = matrix(normalize(world.quaternion, dim=-1))*world.scale[:, None]
    shortest, middle, longest = torch.linalg.eigvalsh(M @ M.mT).sqrt().unbind(-1)
    assert_close(aspect_ratio(world.scale.log()), longest/shortest, rtol=1e-6, atol=0)
    assert_close(elongation(world.scale.log()), longest/middle, rtol=1e-6, atol=0)


def test_the_unit_and_the_pose_do_not_matter():
    world, turn = cloud(1), matrix(normalize(torch.randn(4, dtype=torch.float64), dim=0))
    moved = world._replace(xyz=7*world.xyz @ turn.T, scale=7*world.scale)
    a, b = spike_report(world, ()), spike_report(moved, ())
    assert_close(a.shortest + a.middle, b.shortest + b.middle)
    assert a.clamped == b.clamped > 0


@pytest.mark.parametrize('spread', [0, 1.5, 4])
def test_footprints_are_those_of_brute_force(spread):
    "The Jacobian by autograd, the covariance by matrices, the eigenvalues by a library"
    world, c = cloud(2, spread=spread), camera()
    M = matrix(normalize(world.quaternion, dim=-1))*world.scale[:, None]
    J = torch.stack([torch.autograd.functional.jacobian(lambda x: c.project(x)[0], x) for x in world.xyz])
    lam = torch.linalg.eigvalsh(J @ M @ M.mT @ J.mT + .3*torch.eye(2))
    p = project_gaussians(world, c)
    inside = ((p.xy > 0) & (p.xy < p.xy.new_tensor([c.width, c.height]))).all(-1)
    assert inside.sum() > 100
    assert_close(footprint_ratio(p)[inside], (lam[:, 1]/lam[:, 0]).sqrt()[inside], rtol=1e-6, atol=0)


def test_a_footprint_of_a_million_to_one():
    "Where half the difference of the eigenvalues cancels, single precision holds too"
    long = project_gaussians(WorldGaussians(*(x.double() for x in (
        torch.zeros(1, 3), torch.tensor([[1., .2, .3, .4]]), torch.tensor([[1e4, 1e-9, 1e-9]]), torch.ones(1, 3),
        torch.ones(1)))), camera())
    ratio = footprint_ratio(long)
    assert_close(ratio, ((long.covariance[:, 0] + long.covariance[:, 2] - .3)/.3).sqrt(), rtol=1e-9, atol=0)
    single = footprint_ratio(long._replace(**{k: getattr(long, k).float() for k in ('covariance', 'conic')}))
    assert ratio > 1e5
    assert_close(single.double(), ratio, rtol=1e-6, atol=0)


@examples(60)
@given(st.integers(1, 3000), st.integers(0, 10**6))
def test_percentiles(n, seed):
    x = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    want = np.percentile(x.numpy(), [50, 90, 99, 99.9, 100], method='inverted_cdf')
    got = percentiles(x)
    assert got.median == want[0] and got.largest == want[4]
    for value, share in zip(got, (500, 900, 990, 999, 1000)):  # in whole numbers, where shares of n are exact
        assert 1000*int((x <= value).sum()) >= share*n > 1000*int((x < value).sum())


@pytest.mark.parametrize('seed', range(3))
def test_needle_pixels_are_those_of_the_weights(seed):
    "Each layer's weight in each pixel, summed up by hand"
    world, c = cloud(seed, n=150, spread=1.), camera()
    p, (order, _, _) = project_gaussians(world, c), visible(project_gaussians(world, c), world.opacity, camera())
    y, x = torch.meshgrid(torch.arange(c.height) + .5, torch.arange(c.width) + .5, indexing='ij')
    pixels = torch.stack([x, y], -1).flatten(0, 1).double()
    weight, _, _ = layers(pixels, p.xy[order], p.conic[order], world.opacity[order].clamp(1e-6, .999))
    is_needle = footprint_ratio(p)[order] > 5
    part, alpha = (weight*is_needle).sum(1), weight.sum(1)
    sure = ((part - .5).abs() > 1e-6) & ((alpha - .5).abs() > 1e-6)
    seen = look_for_needles(world, c)
    assert torch.equal((part > .5)[sure], seen.needle.flatten()[sure])
    assert torch.equal((alpha > .5)[sure], seen.covered.flatten()[sure])
    assert 0 < seen.needle.sum() < seen.covered.sum()
    assert_close(seen.ratio.sort().values, footprint_ratio(p)[order].sort().values)
    report = spike_report(world, c)
    assert report.needles == ((seen.needle.sum()/seen.covered.sum()).item(),)
    assert report.screen == percentiles(seen.ratio)


def test_balls_have_no_needles_and_long_ones_are_nothing_else():
    world = cloud(5)
    balls = world._replace(scale=torch.full_like(world.scale, .02))
    report = spike_report(balls, [camera(), camera(1.)])
    assert report.needles == (0., 0.) and report.shortest == report.middle == (1.,)*5 and report.clamped == 0
    assert report.screen.largest < 1.5  # a ball beside the axis is not quite round in perspective
    seen = look_for_needles(world, camera(), limit=.99)
    assert torch.equal(seen.needle, seen.covered)


@pytest.mark.parametrize('unit', [1e-3, 1., 1e4])
def test_views_see_the_cloud_in_any_unit(unit):
    world = cloud(6, n=1000, spread=.3)
    world = world._replace(xyz=unit*(world.xyz + 3), scale=unit*world.scale)
    for c in views(world):
        xy, depth = c.project(world.xyz)
        inside = ((xy > 0) & (xy < 512)).all(-1) & (depth > .01)
        assert inside.double().mean() > .95
        if unit >= 1: assert (xy - 256).abs().median() > 30
    assert_close(extent(world)[0], 3*unit*torch.ones(3, dtype=torch.float64), rtol=.02, atol=0)


# ---- the repair

def test_the_limits_are_those_of_a_refinement():
    assert LOCAL[:3] == (Settings.lowest, Settings.highest, Settings.spread) and WORLD.spread > LOCAL.spread


shapes = st.builds(
    lambda seed, n, mean, width, tail: torch.from_numpy(np.concatenate([
        np.random.default_rng(seed).normal(mean, width, (n, 3)),
        np.random.default_rng(seed).normal(mean, 40, (tail, 3))]).astype(np.float32)),
    st.integers(0, 10**6), st.integers(0, 50), st.sampled_from([-9., -3, 0, 6]), st.sampled_from([0., .1, 1, 3, 12]),
    st.integers(0, 9))


@examples(400)
@given(shapes, st.sampled_from([LOCAL, WORLD]))
def test_repair_of_any_sizes(ell, limits):
    new = repair_log_scale(ell, limits)
    assert new.dtype == ell.dtype and new.shape == ell.shape
    if not len(ell): return
    assert aspect_ratio(new.double()).max() <= math.exp(limits.spread)               # no spikes are left
    middle = new.median() if limits.relative else 0
    assert new.min() >= middle + limits.lowest - 1e-5 and new.max() <= middle + limits.highest + 1e-5
    assert repair_log_scale(new, limits).numpy().tobytes() == new.numpy().tobytes()   # twice is once
    if limits.relative: return
    x, (low, high, spread, _) = ell.double(), limits
    good = (x.amin(-1) >= low) & (x.amax(-1) <= high) & (x.amax(-1) - x.amin(-1) <= spread)
    assert new[good].numpy().tobytes() == ell[good].numpy().tobytes()                 # the others keep their bits
    assert (new != ell)[~good].any(-1).all()
    x = x.clamp(low, high)
    long = x.amax(-1) - x.amin(-1) > spread
    assert_close(new[~long], x[~long].float())
    assert_close(new[long], clamp_log_scale_(ell[long], low, high, spread), rtol=0, atol=2e-5)  # the refinement's


def test_world_limits_follow_the_unit():
    ell = cloud(8, spread=3.).scale.log()
    moved = repair_log_scale(ell + 9, WORLD) - 9
    assert_close(moved, repair_log_scale(ell, WORLD), rtol=0, atol=2e-6)


# ---- files

@pytest.fixture
def spiky():
    head = toy_head()
    avatar = Avatar.rest(head, UVLayout(head, 24))
    avatar.gaussians.log_scale[::10, 1] += 5
    return avatar


def others(ply):
    "Bytes of all columns but the sizes"
    return {(e.name, p.name): e[p.name].tobytes() if e[p.name].dtype != object else [list(x) for x in e[p.name]]
            for e in ply.elements for p in e.properties if p.name not in SCALES}


foreign = {
    'little': dict(byte_order='<'),
    'big': dict(byte_order='>', comments=['made elsewhere'], obj_info=['a head']),
    'text': dict(text=True, comments=['made elsewhere']),
}


@pytest.mark.parametrize('kind', foreign)
@pytest.mark.parametrize('bound', [False, True])
def test_a_ply_of_another_program(spiky, kind, bound, tmp_path):
    "Shuffled columns, of several types, among elements that are none of ours, NaN in one that is not asked for"
    path, out = tmp_path/'in.ply', tmp_path/'out.ply'
    if bound: write_bound_ply(path, spiky)
    else: write_ply(path, spiky.pose(spiky.codes()), degree=2)
    rows = PlyData.read(str(path), mmap=False)['vertex'].data
    names = [rows.dtype.names[i] for i in torch.randperm(len(rows.dtype.names), generator=torch.manual_seed(0))]
    types = {'scale_1': 'f8', 'segment': 'u1', 'id': 'i4'}
    table = np.zeros(len(rows), [(name, types.get(name, 'f4')) for name in ['segment', *names, 'id']])
    for name in names: table[name] = rows[name]
    table['id'], table['segment'], table['nx'] = np.arange(len(rows)), 200, np.nan
    faces = np.empty(2, [('vertex_indices', 'i4', (3,)), ('flag', 'u1')])
    faces['vertex_indices'], faces['flag'] = [[0, 1, 2], [2, 1, 3]], [7, 8]
    elements = [PlyElement.describe(faces, 'face'), PlyElement.describe(table, 'vertex')]
    PlyData(elements, **foreign[kind]).write(str(path))
    old = PlyData.read(str(path), mmap=False)
    changed, n = repair(path, out)
    new = PlyData.read(str(out), mmap=False)
    assert new.header == old.header and others(new) == others(old)
    a, b = (np.stack([x['vertex'][name] for name in SCALES], -1) for x in (old, new))
    assert n == len(rows) and changed == (a != b).any(-1).sum() == len(range(0, n, 10))
    assert aspect_ratio(torch.from_numpy(b)).max() <= math.exp((LOCAL if bound else WORLD).spread)
    once = out.read_bytes()
    assert repair(out, out) == (0, n) and out.read_bytes() == once


def test_an_avatar(spiky, tmp_path):
    path, out = tmp_path/'in.safetensors', tmp_path/'out.safetensors'
    spiky.made['note'] = 'kept'
    spiky.save(path)
    changed, n = repair(path, out)
    with safe_open(path, 'pt') as a, safe_open(out, 'pt') as b:
        assert a.metadata() == b.metadata() and list(a.keys()) == list(b.keys())
        assert all(torch.equal(a.get_tensor(k), b.get_tensor(k)) for k in a.keys() if k != 'log_scale')
        moved = (a.get_tensor('log_scale') != b.get_tensor('log_scale')).any(-1)
    assert moved.sum() == changed == len(range(0, n, 10)) and moved[::10].all()
    back = Avatar.load(out, spiky.head)
    assert aspect_ratio(back.gaussians.log_scale).max() <= math.exp(LOCAL.spread) and spike_report(back).clamped == 0
    once = out.read_bytes()
    assert repair(out, out) == (0, n) and out.read_bytes() == once


def run(capsys, *words):
    try: status = main([str(w) for w in words])
    except SystemExit as e: status = e.code
    out, err = capsys.readouterr()
    return status, out, err


def test_wrong_files_leave_nothing(spiky, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_ply('good.ply', spiky.pose(spiky.codes()))
    spiky.save('good.safetensors')
    whole, avatar = (open(f'good.{k}', 'rb').read() for k in ('ply', 'safetensors'))
    rows = PlyData.read('good.ply', mmap=False)
    rows['vertex']['scale_2'][:4] = np.nan
    rows.write('nan.ply')
    PlyData([PlyElement.describe(np.zeros(3, [(k, 'f4') for k in 'xyz']), 'vertex')]).write('points.ply')
    PlyData([PlyElement.describe(np.zeros(3, [(k, 'u1') for k in SCALES]), 'vertex')]).write('packed.ply')
    for name, content in {'empty.ply': b'', 'half.ply': whole[:-99], 'text.ply': b'dear diary',
                          'head.ply': whole[:90], 'half.safetensors': avatar[:-99], 'empty.safetensors': b'',
                          'notes.txt': b'dear diary'}.items():
        with open(name, 'wb') as f: f.write(content)
    os.mkdir('folder.ply')
    names = sorted(os.listdir())
    wrong = [x for x in names if x[:4] != 'good'] + ['nowhere.ply', 'nowhere.safetensors']
    for name in wrong:
        status, out, err = run(capsys, 'repair', name, '-o', 'out' + os.path.splitext(name)[1])
        assert (status, out, err.count('\n')) == (2, '', 1) and name in err, (name, err)
    for args in (['good.ply', '-o', 'out.safetensors'], ['good.ply', '-o', 'no/out.ply'], ['good.ply'],
                 ['good.ply', '-o', 'folder.ply']):
        status, out, err = run(capsys, 'repair', *args)
        assert (status, out, err.count('\n')) == (2, '', 1), args
    assert sorted(os.listdir()) == names and open('good.ply', 'rb').read() == whole


def test_doctor_and_info_of_anything(spiky, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spiky.head.save('head.npz')
    spiky.save('a.safetensors')
    world = spiky.pose(spiky.codes())
    write_ply('world.ply', world)
    write_bound_ply('bound.ply', spiky)
    write_ply('none.ply', WorldGaussians(*(x[:0] for x in world)))
    for name in ('a.safetensors', 'world.ply', 'bound.ply'):
        for verb in (['info', name], ['doctor', name, '--head', 'head.npz']):
            status, out, err = run(capsys, *verb)
            assert (status, err) == (int(verb[0] == 'doctor'), '') and 'beyond the limits' in out
            assert 'repair them' in out or verb[0] == 'info'
    status, out, err = run(capsys, 'doctor', 'none.ply')
    assert (status, err) == (1, '') and 'it holds no Gaussians' in out
    assert run(capsys, 'info', 'none.ply')[0] == 0


def test_doctor_of_huge_numbers(spiky, tmp_path, capsys):
    "Sizes that overflow single precision are still drawn, and named"
    world = spiky.pose(spiky.codes())
    write_ply(tmp_path/'huge.ply', world)
    rows = PlyData.read(str(tmp_path/'huge.ply'), mmap=False)
    rows['vertex']['scale_0'][5], rows['vertex']['scale_1'][6] = 300, -300
    rows.write(str(tmp_path/'huge.ply'))
    status, out, err = run(capsys, 'doctor', tmp_path/'huge.ply')
    assert (status, err) == (1, '') and 'larger than a quarter of the whole' in out and 'repair them' in out
    assert read_cloud(tmp_path/'huge.ply').gaussians.activate().scale.isfinite().all()
    repair(tmp_path/'huge.ply', tmp_path/'mended.ply')
    assert aspect_ratio(read_cloud(tmp_path/'mended.ply').gaussians.log_scale).max() <= math.exp(3)
