"""Files for other programs: damaged ones end in one line, and where other programs are installed, they read ours

For those that run under node: `npm install --no-save gltf-validator @playcanvas/splat-transform three` in any folder,
and `NODE_MODULES=that/folder/node_modules`."""
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData
from spatialavatar0.core import UserError
from spatialavatar0.drive.compressed_ply import read_compressed_ply, write_compressed_ply
from spatialavatar0.drive.export import FORMATS, export
from spatialavatar0.drive.glb import read_splat_glb
from spatialavatar0.drive.presets import preset
from spatialavatar0.drive.quantize import angle_between, upright
from spatialavatar0.drive.rig import seamless, write_head_glb
from spatialavatar0.drive.splat_file import read_splat
from spatialavatar0.drive.spz import read_spz, write_spz
from spatialavatar0.head.model import open_head
from spatialavatar0.head.uv import UVLayout
from spatialavatar0.splat.avatar import Avatar
from spatialavatar0.splat.gaussians import WorldGaussians
from spatialavatar0.splat.ply import Y0, read_ply, write_ply

readers = {'ply': read_ply, 'compressed-ply': read_compressed_ply, 'splat': read_splat, 'spz': read_spz,
           'splat-glb': read_splat_glb}
modules = os.environ.get('NODE_MODULES', '')
with_node = lambda package: pytest.mark.skipif(
    not (shutil.which('node') and (Path(modules)/package).is_dir()), reason=f'no node, or no {package} in NODE_MODULES')


@pytest.fixture(scope='module')
def avatar():
    g = torch.Generator().manual_seed(0)
    layout = UVLayout(open_head(), 32)
    made = Avatar.rest(open_head(), layout, colour=torch.rand(len(layout), 3, generator=g))
    made.gaussians.quaternion.add_(torch.randn(len(layout), 4, generator=g))
    made.gaussians.opacity_logit.add_(torch.randn(len(layout), generator=g))
    return made


@pytest.fixture(scope='module')
def files(avatar, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exports')
    return {to: export(avatar, to, folder/f'{to}{FORMATS[to].suffix}') for to in (*readers, 'bound-ply')}


def mutated(data, rng):
    "One thing changed: bytes, a piece cut out, put in twice, or the end"
    data, at = bytearray(data), rng.randrange(len(data))
    how = rng.randrange(5)
    if how == 0: data[at] ^= 1 << rng.randrange(8)
    elif how == 1: del data[at:]
    elif how == 2: del data[at:at + rng.randint(1, 64)]
    elif how == 3: data[at:at] = data[at:at + rng.randint(1, 64)]
    else: data[at:at + 4] = rng.choice((b'\xff\xff\xff\xff', b'\0\0\0\0', b'\0\0\x80\x7f', b'\0\0\xc0\x7f'))
    return bytes(data)


@pytest.mark.parametrize('to', readers)
def test_damaged_files_end_in_one_line(files, to, tmp_path):
    "Or are read as other Gaussians: most bytes are numbers, and any number is one"
    rng, bad, whole = random.Random(to), tmp_path/files[to].name, files[to].read_bytes()
    refused = 0
    for i in range(120):
        data = mutated(whole if i % 2 else whole[:1200] + whole[-200:], rng)
        bad.write_bytes(data)
        try: world = readers[to](bad)
        except UserError as e:
            refused += 1
            assert str(e).startswith(str(bad)) and '\n' not in str(e)
        else: assert all(x.isfinite().all() for x in world[:2])
    assert refused > 20


@pytest.mark.parametrize('to', readers)
def test_one_format_taken_for_another(files, to):
    for other in set(readers) - {to}:
        if other == 'ply' and to == 'splat': continue
        try: readers[to](files[other])
        except UserError as e: assert str(e).startswith(str(files[other])) and '\n' not in str(e)
        else: assert to == 'splat'  # it has no mark: any file of 32 n bytes may be one


def test_sizes(files, avatar):
    n = len(avatar.gaussians)
    assert files['splat'].stat().st_size == 32*n
    assert files['spz'].stat().st_size < 20*n + 60
    header = files['compressed-ply'].read_bytes().index(b'end_header\n') + 11
    assert files['compressed-ply'].stat().st_size == header + 16*n + 72*-(-n//256)


@pytest.mark.parametrize('to, write', [('compressed-ply', write_compressed_ply), ('spz', write_spz)])
def test_no_gaussians_at_all(to, write, tmp_path):
    none = WorldGaussians(*(torch.zeros(0, *s) for s in ((3,), (4,), (3,), (3,), ())))
    write(tmp_path/'none.x', none)
    assert len(readers[to](tmp_path/'none.x').xyz) == 0


# -- other programs

def plain(path):
    "The Gaussians in a PLY as it stands, with infinite logits where another program had them"
    t = PlyData.read(str(path))['vertex'].data
    of = lambda names: torch.from_numpy(np.stack([t[k] for k in names.split()], -1).astype(np.float32))
    return WorldGaussians(of('x y z'), of('rot_0 rot_1 rot_2 rot_3'), of('scale_0 scale_1 scale_2').exp(),
                          .5 + Y0*of('f_dc_0 f_dc_1 f_dc_2'), of('opacity')[:, 0].sigmoid())


def agree(a, b, turn=1e-4):
    "The same Gaussians, in the same order"
    torch.testing.assert_close((a.xyz, a.colour, a.opacity), (b.xyz, b.colour, b.opacity), rtol=0, atol=3e-6)
    torch.testing.assert_close(a.scale, b.scale, rtol=1e-5, atol=0)
    assert angle_between(a.quaternion, b.quaternion).rad2deg().max() < turn


@pytest.mark.parametrize('kind, read', [('ply', read_ply), ('splat', read_splat), ('ply_compressed', read_compressed_ply)])
def test_gsplats_exporter(kind, read, files, tmp_path):
    "What gsplat writes is read, and it writes no column that our PLY has not"
    from gsplat import export_splats
    world = read_ply(files['ply'])
    parts = dict(means=world.xyz, scales=world.scale.log(), quats=world.quaternion, opacities=world.opacity.logit(),
                 sh0=(world.colour[:, None] - .5)/Y0, shN=torch.zeros(len(world.xyz), 0, 3))
    (tmp_path/'theirs').write_bytes(export_splats(**parts, format=kind))
    got = read(tmp_path/'theirs') if kind == 'ply' else read(tmp_path/'theirs', up='y')
    near = torch.cdist(got.xyz.double(), world.xyz.double()).min(1)  # the others are in Morton's order
    assert len(got.xyz) == len(world.xyz) and near.values.max() < (1e-3 if kind == 'ply_compressed' else 1e-7)
    byte = 1/255 + 1e-4  # it cuts off where we round
    assert (got.opacity - world.opacity[near.indices]).abs().max() < byte
    assert (got.colour - world.colour[near.indices]).abs().max() < byte
    assert angle_between(got.quaternion, world.quaternion[near.indices]).rad2deg().max() < 2.
    if kind == 'ply':
        theirs, ours = (PlyData.read(str(p))['vertex'].data.dtype for p in (tmp_path/'theirs', files['ply']))
        assert {(n, theirs[n]) for n in theirs.names} <= {(n, ours[n]) for n in ours.names}


def test_gsply_reads_spz(files):
    "A reader in Python that shares nothing with Niantic's or ours"
    theirs, ours = pytest.importorskip('gsply').read_spz(str(files['spz'])), read_spz(files['spz'])
    of = lambda x: torch.from_numpy(np.asarray(x))
    agree(WorldGaussians(of(theirs.means), of(theirs.quats), of(theirs.scales).exp(),
                         .5 + Y0*of(theirs.sh0).reshape(-1, 3), of(theirs.opacities).sigmoid()), ours)


def node(*args):
    done = subprocess.run(['node', *map(str, args)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@with_node('@playcanvas/splat-transform')
@pytest.mark.parametrize('to', ['compressed-ply', 'splat', 'spz', 'ply'])
def test_splat_transform_reads_them(files, to, tmp_path):
    "PlayCanvas' converter, whose reader of SPZ is Niantic's. It centres the bytes of a .splat's turn on 127.5, not 128"
    named = shutil.copy(files[to], tmp_path/('in.compressed.ply' if to == 'compressed-ply' else files[to].name))
    node(Path(modules)/'@playcanvas/splat-transform/bin/cli.mjs', '-w', named, tmp_path/'out.ply')
    theirs = plain(tmp_path/'out.ply')
    agree(theirs if to == 'ply' else upright(theirs, '-y'), readers[to](files[to]), 1. if to == 'splat' else 1e-3)


@with_node('@playcanvas/splat-transform')
@pytest.mark.parametrize('to', ['compressed-ply', 'spz', 'splat-glb'])
def test_what_splat_transform_writes_is_read(files, to, tmp_path):
    name = tmp_path/{'compressed-ply': 'x.compressed.ply', 'spz': 'x.spz', 'splat-glb': 'x.glb'}[to]
    down = tmp_path/'down.ply'
    write_ply(down, upright(read_ply(files['ply']), '-y'))
    node(Path(modules)/'@playcanvas/splat-transform/bin/cli.mjs', '-w', *(['--spz-version', 3] if to == 'spz' else []),
         down, name)
    got, want = readers[to](name), read_ply(files['ply'])
    assert len(got.xyz) == len(want.xyz)
    turn = torch.tensor([-1, 1, -1]) if to == 'splat-glb' else 1  # it turns a PLY's axes about z, where we turn about x
    near = torch.cdist(got.xyz*turn, want.xyz).amin(-1)
    assert near.max() < 1e-3  # each stands where one of ours does


@with_node('gltf-validator')
@pytest.mark.parametrize('to', ['glb', 'splat-glb'])
def test_khronos_validator(avatar, files, to, tmp_path):
    "The mesh without a remark; of Gaussians it only says that it does not know the extension's names"
    file = files['splat-glb']
    if to == 'glb': write_head_glb(file := tmp_path/'moving.glb', avatar, preset('demo', 5.), size=64)
    script = tmp_path/'validate.cjs'
    script.write_text("const v = require(process.argv[2] + '/gltf-validator'), fs = require('fs');"
                      "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[3])))"
                      ".then(r => console.log(JSON.stringify(r.issues.messages)));")
    said = json.loads(node(script, Path(modules).resolve(), file))
    if to == 'glb': assert not said
    assert all(m['code'] == 'UNSUPPORTED_EXTENSION' or 'KHR_gaussian_splatting' in m['pointer'] for m in said)


@with_node('three')
def test_three_moves_the_head_as_we_do(avatar, tmp_path):
    "three.js' loader, mixer, morph targets and bones, against `head.vertices`"
    motion, file = preset('demo', 5.), tmp_path/'moving.glb'
    write_head_glb(file, avatar, motion, size=64)
    codes, vertex, at = motion.codes(avatar), seamless(avatar.head)[0][::37], (0, 8, 22, 30)
    script, three = tmp_path/'three.mjs', (Path(modules)/'three').resolve().as_uri()
    script.write_text(f"import * as THREE from '{three}/build/three.module.js';"
                      f"import {{ GLTFLoader }} from '{three}/examples/jsm/loaders/GLTFLoader.js';{PLAY}")
    got = torch.tensor(json.loads(node(script, file, 37, 5, *at)))
    want = torch.stack([avatar.head.vertices(codes[t].replace(shape=avatar.shape))[vertex] for t in at])
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6)


PLAY = """
import fs from 'fs';
const [,, file, step, fps, ...frames] = process.argv, data = fs.readFileSync(file), out = [];
globalThis.self = globalThis;
const loader = new GLTFLoader();
loader.register(() => ({ name: 'no pictures under node', loadTexture: () => Promise.resolve(new THREE.Texture()) }));
loader.parse(data.buffer.slice(data.byteOffset, data.byteOffset + data.length), '', gltf => {
    let mesh;
    gltf.scene.traverse(o => { if (o.isSkinnedMesh) mesh = o; });
    const mixer = new THREE.AnimationMixer(gltf.scene), p = new THREE.Vector3();
    mixer.clipAction(gltf.animations[0]).play();
    for (const t of frames) {
        mixer.setTime(t/fps); gltf.scene.updateMatrixWorld(true); mesh.skeleton.update();
        const row = [];
        for (let i = 0; i < mesh.geometry.attributes.position.count; i += +step)
            row.push(mesh.getVertexPosition(i, p).applyMatrix4(mesh.matrixWorld).toArray());
        out.push(row);
    }
    console.log(JSON.stringify(out));
});
"""
