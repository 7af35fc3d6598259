"""Damaged and malicious files, thousands of them: `python tests/fuzz.py --count 10000 [--reader NAME]`

A small valid folder of each format, or a motion, or an avatar, is written, one thing in it is changed, and it is read.
That must end well, or
with one `UserError` that names the file: no other exception, nothing left behind, nothing executed, nothing read that
lies outside, no hang, no growth. The changed folders are read in a process of its own, under limits, which is watched.
It looks into /proc, so it is for Linux."""
import argparse
import io
import json
import os
import pickle
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np

root = Path(__file__).parent.parent
sys.path.insert(0, str(root))

HANG, MEMORY = 30, 3*2**30  # seconds a case may take, bytes that a worker may take beyond its start
SECRET = 'secret.png'       # beside the folders, and nobody's to read


class Evil:
    "What runs when it is unpickled"
    def __init__(self, what): self.what = what
    def __reduce__(self): return self.what


def evil(rng, place):
    "A thing that leaves a file `pwned` if it is run"
    return Evil(rng.choice([(os.system, (f'touch {place}',)), (exec, (f'open({str(place)!r}, "w")',)),
                            (eval, (f'open({str(place)!r}, "w")',)), (open, (str(place), 'w')),
                            (subprocess.getoutput, (f'touch {place}',)), (os.mkdir, (str(place),)),
                            (np.savetxt, (str(place), [1.]))]))


# -- one thing changed

def leaves(tree, at=()):
    "Places in a tree of dicts and lists; of long lists the beginning"
    yield at
    if isinstance(tree, dict):
        for k in list(tree)[:40]: yield from leaves(tree[k], (*at, k))
    elif isinstance(tree, list):
        for i, x in enumerate(tree[:20]): yield from leaves(x, (*at, i))


def put(tree, at, change):
    "The tree with `change(old)` at a place; None drops it"
    if not at: return change(tree)
    *way, last = at
    node = tree
    for k in way: node = node[k]
    new = change(node[last])
    if new is None and isinstance(node, dict): del node[last]
    else: node[last] = new
    return tree


def strange(rng, old, outside):
    "Something else in place of a value"
    nest = []
    for _ in range(rng.choice([5, 50])): nest = [nest]
    words = ['', ' ', '.', '..', '/', '/etc/passwd', f'../../../{SECRET}', f'..\\..\\..\\{SECRET}',
             str(outside), 'a\0b', 'x'*5000, 'gr\u00fc\u00df dich \u56fe.png', '\ud83d\ude00', 'images', 'NaN',
             '%s%n', 'con', '-', '~/x', 'file:///etc/passwd']
    numbers = [0, -1, 1, .5, 1e308, 1e-308, -1e9, 2**31, 2**63, 10**30, float('nan'), float('inf'),
               -float('inf'), True, 16384]
    choice = rng.random()
    if choice < .25: return rng.choice(numbers)
    if choice < .5: return rng.choice(words)
    if choice < .6: return rng.choice([None, [], {}, [[]], nest, [1]*1000, {'a': {}}, [None]*3])
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        return old*rng.choice([-1, 0, 10, 1e6, .001]) + rng.choice([0, .5])
    if isinstance(old, list) and old: return rng.choice([old[:-1], old + old, old[::-1], [old], old*50])
    if isinstance(old, dict) and old: return dict(list(old.items())[:-1])
    return None


def strange_array(rng, x):
    "An array with something wrong in it"
    x = np.array(x)
    wild = x.astype(np.float64).copy() if x.dtype.kind in 'iuf' else np.zeros(3)
    if wild.size: wild.flat[rng.randrange(wild.size)] = rng.choice([np.nan, np.inf, 1e30, -1e5, 1e6])
    return rng.choice([
        lambda: wild, lambda: np.full(x.shape, np.nan), lambda: x.reshape(-1)[:-1], lambda: np.zeros(0),
        lambda: np.zeros((0, 7)), lambda: x.T, lambda: np.array(0.), lambda: np.array('text'),
        lambda: np.zeros((1, 200_000), np.float32), lambda: np.zeros(x.shape, bool), lambda: np.array([b'a']),
        lambda: wild*100, lambda: wild.astype(np.float16), lambda: wild.astype(complex),
        lambda: np.stack([x, x]), lambda: wild.astype('>f8')])()


def change_bytes(rng, data):
    "Flipped, cut, repeated, swapped or replaced bytes"
    data = bytearray(data)
    n, kind = max(len(data), 1), rng.random()
    i = rng.choice([rng.randrange(n), rng.randrange(min(n, 64)),
                    max(0, n - 1 - rng.randrange(min(n, 64)))])
    if kind < .35:
        for _ in range(rng.choice([1, 1, 2, 5, 20])):
            bit = 1 << rng.randrange(8)
            if data: data[rng.randrange(len(data)) if rng.random() < .5 else min(i, len(data) - 1)] ^= bit
    elif kind < .55: del data[i:]
    elif kind < .65: del data[i:i + rng.choice([1, 2, 4, 100])]
    elif kind < .75:
        data[i:i] = rng.choice([bytes(rng.choice([1, 8, 1000])), rng.randbytes(20), data[i:i + 200]])
    elif kind < .9:
        k = rng.choice([1, 2, 4, 8])
        data[i:i + k] = rng.choice([b'\xff', b'\0', b'\x7f', b'\x80'])*k
    elif kind < .95:
        data = bytearray(rng.choice([
            b'', b'{}', b'[]', b'null', b'\0'*100, rng.randbytes(300), b'PK\x05\x06' + bytes(18),
            b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff', b'[' * 100_000, b'{"a":' * 50_000]))
    else: data[i:] = rng.randbytes(max(1, len(data) - i))
    return bytes(data)


def change_json(rng, data, place, outside):
    tree = json.loads(data)
    if rng.random() < .002:  # a million frames
        key = 'frames' if 'frames' in tree else next(iter(tree))
        return b'{"%s": [' % key.encode() + b','.join([b'{}']*1_000_001) + b']}'
    for _ in range(rng.choice([1, 1, 1, 3])):
        at = rng.choice(list(leaves(tree)))
        tree = put(tree, at, lambda old: strange(rng, old, outside))
        if not isinstance(tree, (dict, list)): break
    return json.dumps(tree, ensure_ascii=rng.random() < .5).encode('utf-8', 'surrogatepass')


def change_tree(rng, tree, place, outside):
    "Of arrays: a pickle or what torch saved"
    if rng.random() < .1: return put(tree, rng.choice(list(leaves(tree))), lambda old: evil(rng, place))
    def new(old):
        if isinstance(old, np.ndarray) and rng.random() < .8: return strange_array(rng, old)
        return strange(rng, old, outside)
    for _ in range(rng.choice([1, 1, 2])):
        tree = put(tree, rng.choice(list(leaves(tree))), new)
        if not isinstance(tree, dict): break
    return tree


def change_pickle(rng, data, place, outside):
    if rng.random() < .05:
        laughs = []
        for _ in range(60): laughs = [laughs, laughs]
        circle = {}; circle['me_0'] = circle
        call = b'cos\nsystem\n(S"touch %s"\ntR.' % str(place).encode()
        far = b'\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.'
        return rng.choice([pickle.dumps({'me_0': laughs}), pickle.dumps(circle), b'\x80\x02}r\xff\xff\xff\x7f.',
                           far, call])
    return pickle.dumps(change_tree(rng, pickle.loads(data), place, outside),
                        protocol=rng.choice([0, 2, 4, 5]))


def change_torch(rng, data, place, outside):
    import torch
    out = io.BytesIO()
    tree = torch.load(io.BytesIO(data), weights_only=False)  # our own file
    torch.save(change_tree(rng, tree, place, outside), out)
    return out.getvalue()


def change_npz(rng, data, place, outside):
    arrays = dict(np.load(io.BytesIO(data)))
    kind, name, out = rng.random(), rng.choice(list(arrays)), io.BytesIO()
    if kind < .5: arrays[name] = strange_array(rng, arrays[name])
    elif kind < .6: del arrays[name]
    elif kind < .7:
        arrays[name] = np.array([evil(rng, place)], object)
    if kind < .7:
        np.savez(out, **arrays)
        return out.getvalue()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        for k, x in arrays.items():
            f = io.BytesIO(); np.save(f, x); raw = f.getvalue()
            if k == name and kind < .8: raw = raw.replace(b"'shape': (", b"'shape': (9999999999, ", 1)
            elif k == name and kind < .85: raw = change_bytes(rng, raw)
            elif k == name and kind < .87: raw = raw + bytes(20_000_000)
            z.writestr(k + '.npy', raw)
        if kind > .87:
            z.writestr(rng.choice(['../../../pwned', '/tmp/pwned', str(place), 'a\\b', 'x'*300]), 'text')
    return out.getvalue()


def change_text(rng, data, place, outside):
    if data[:1] == b'#': return change_lines(rng, data, outside)
    words = data.split()
    if words:
        words[rng.randrange(len(words))] = rng.choice([b'nan', b'inf', b'1e400', b'x', b'1_0', b'-',
                                                       b'0x10', b'\xff', b'1e5'])
    return b'\n'.join(words*rng.choice([1, 1, 2, 1000]))


def change_table(rng, data, place, outside):
    rows = [r.split(b',') for r in data.split(b'\n')]
    row = rows[rng.choice([0, rng.randrange(len(rows))])]
    kind, at = rng.random(), rng.randrange(len(row))
    if kind < .6: row[at] = rng.choice([b'nan', b'inf', b'1e400', b'x', b'', b'-', b'"', b'\xff', b'1e5', b'-1',
                                        b'99:99:99:99.9', b'jawOpen', b'Timecode', b'9'*400])
    elif kind < .7: del row[at]
    elif kind < .8: row.insert(at, rng.choice(row))
    elif kind < .9: rows.insert(rng.randrange(len(rows)), rng.choice(rows))
    else: rng.shuffle(rows)
    return b'\n'.join(b','.join(r) for r in rows)


def change_safetensors(rng, data, place, outside):
    n = int.from_bytes(data[:8], 'little')
    head, body = json.loads(data[8:8 + n]), data[8 + n:]
    kind = rng.random()
    if kind < .3:
        kind_of = rng.choice(list(head['__metadata__']))
        about = json.loads(head['__metadata__'][kind_of])
        about = put(about, rng.choice(list(leaves(about))), lambda old: strange(rng, old, outside))
        head['__metadata__'][kind_of] = json.dumps(about)
    elif kind < .7: head = put(head, rng.choice(list(leaves(head))[1:]), lambda old: strange(rng, old, outside))
    else:
        body, i = bytearray(body), 4*rng.randrange(len(body)//4)
        body[i:i + 4] = np.float32(rng.choice([np.nan, np.inf, -1e30, 1e30, 1e5, -200, 0])).tobytes()
    head = json.dumps(head).encode()
    n = len(head) if rng.random() < .95 else rng.choice([0, 2**63, 2**40, len(head) - 1])
    return n.to_bytes(8, 'little') + head + bytes(body)


def change_header(rng, data, place, outside):
    "Of a PLY: its lines of text, the numbers after them"
    head, end, body = data.partition(b'end_header\n')
    words = head.split(b' ')
    if rng.random() < .7:
        words[rng.randrange(len(words))] = rng.choice([b'-1', b'0', b'99999999999', b'x', b'list', b'float', b'double',
                                                       b'uchar', b'uchar int', b'binary_big_endian', b'ascii'])
    else:
        body, i = bytearray(body), 4*rng.randrange(max(1, len(body)//4))
        body[i:i + 4] = np.float32(rng.choice([np.nan, np.inf, 1e30, -200])).tobytes()
    return b' '.join(words) + end + bytes(body)


def change_glb(rng, data, place, outside):
    n = int.from_bytes(data[12:16], 'little')
    head = json.loads(data[20:20 + n])
    head = put(head, rng.choice(list(leaves(head))), lambda old: strange(rng, old, outside))
    text = json.dumps(head).encode()
    text += b' '*(-len(text) % 4)
    total = 12 + 8 + len(text) + len(data) - 20 - n
    return data[:8] + total.to_bytes(4, 'little') + len(text).to_bytes(4, 'little') + data[16:20] + text + data[20 + n:]


def change_gzip(rng, data, place, outside):
    import gzip
    return gzip.compress(change_bytes(rng, gzip.decompress(data)), 1)


def change_lines(rng, data, outside):
    "Of a table of words: one of them, or a line, is another, is gone or is there again"
    lines = [l.split(b' ') for l in data.split(b'\n')]
    for _ in range(rng.choice([1, 1, 1, 3])):
        i = rng.randrange(len(lines))
        words, kind = lines[i], rng.random()
        k = rng.randrange(len(words))
        new = str(strange(rng, words[k].decode('utf-8', 'replace'), outside)).encode('utf-8', 'surrogatepass')
        if kind < .7: words[k] = rng.choice([new, b'nan', b'inf', b'-1', b'0', b'1e400', b'x', b'\xff', words[-1]])
        elif kind < .8: del words[k]
        elif kind < .9: del lines[i]
        else: lines[i:i] = [words]*rng.choice([1, 2, 1000])
        if not lines: return b''
    return b'\n'.join(b' '.join(l) for l in lines)


def fields(data):
    "(number, integer or bytes) of each field of a protocol buffer; ValueError for what is none"
    def varint(i):
        n = shift = 0
        while True:
            if i >= len(data) or shift > 63: raise ValueError('no protocol buffer')
            n |= (data[i] & 127) << shift
            if data[i] < 128: return n, i + 1
            i, shift = i + 1, shift + 7
    found, i = [], 0
    while i < len(data):
        tag, i = varint(i)
        n, i = varint(i)
        if tag & 7 == 2:
            if i + n > len(data): raise ValueError('no protocol buffer')
            n, i = data[i:i + n], i + n
        elif tag & 7: raise ValueError('no integer and no bytes')
        found.append((tag >> 3, n))
    return found


def change_onnx(rng, data, place, outside):
    "One field of a network, at any depth, is another, is gone or is there again"
    from spatialavatar0.track.matte_network import field
    found = fields(data)
    if not found: raise ValueError('nothing to change')
    i = rng.randrange(len(found))
    number, x = found[i]
    deeper = isinstance(x, bytes) and len(x) > 1 and rng.random() < .85
    if deeper:
        try: x = change_onnx(rng, x, place, outside)
        except ValueError: deeper = False
    kind = rng.random()
    if deeper or kind < .5:
        if not deeper and isinstance(x, int): x = rng.choice([0, 1, 7, 13, 2**31, 2**40, 2**63, 2**64 - 1, x + 1])
        elif not deeper:
            x = rng.choice([b'', b'src', b'r1i', b'pha', b'Loop', b'Resize', b'location', str(outside).encode(),
                            change_bytes(rng, x)])
        found[i] = number, x
    elif kind < .7: del found[i]
    elif kind < .85: found.insert(rng.randrange(len(found) + 1), found[i])
    else: found[i] = rng.choice([1, 2, 3, 5, 8, 9, 11, 12, 13, 14, 15]), x
    return b''.join(field(k, v) for k, v in found)


CHANGES = {'.onnx': change_onnx, '.json': change_json, '.pkl': change_pickle, '.frame': change_torch, '.npz': change_npz,
           '.txt': change_text, '.csv': change_table, '.safetensors': change_safetensors,
           '.ply': change_header, '.glb': change_glb, '.spz': change_gzip}


class Folder:
    "A valid folder that is changed and made good again"
    def __init__(self, path):
        self.path, self.touched = path, set()
        self.whole = {p.relative_to(path): p.read_bytes() for p in sorted(path.rglob('*'))
                      if p.is_file()}
        self.folders = [p.relative_to(path) for p in sorted(path.rglob('*')) if p.is_dir()]

    def clear(self, rel):
        p = self.path/rel
        self.touched.add(rel)
        if p.is_dir() and not p.is_symlink(): shutil.rmtree(p)
        else: p.unlink(missing_ok=True)
        return p

    def restore(self):
        for rel in self.touched: self.clear(rel)
        for rel in self.folders: (self.path/rel).mkdir(exist_ok=True)
        for rel, data in self.whole.items():
            if any(rel == t or t in rel.parents for t in self.touched): (self.path/rel).write_bytes(data)
        self.touched = set()


def mutate(rng, folder, place, outside):
    "Change one thing, or a few; what was done, for people"
    files = list(folder.whole)
    rel = rng.choice(files if rng.random() < .6 else [r for r in files if r.suffix in CHANGES] or files)
    data, kind = folder.whole[rel], rng.random()
    if kind < .06:
        p, how = folder.clear(rel), rng.choice(['gone', 'folder', 'loop', 'pipe', 'dangling', 'moved'])
        if how == 'folder': p.mkdir()
        elif how == 'loop': p.symlink_to(p.name)
        elif how == 'pipe': os.mkfifo(p)
        elif how == 'dangling': p.symlink_to('nowhere')
        elif how == 'moved':
            new = rel.with_name(rng.choice(['\u56fe \u00e9.png', ' ', '-rf', 'a\nb.frame',
                                            '9'*50 + '.frame', '00001_08.png', 'cam_1_1.jpg']))
            folder.touched.add(new); (folder.path/new).write_bytes(data)
        return f'{rel}: {how}'
    if kind < .08 and folder.folders:
        sub = rng.choice(folder.folders)
        p = folder.clear(sub)
        how = rng.choice(['gone', 'file', 'loop', 'up'])
        if how == 'file': p.write_bytes(b'x')
        elif how == 'loop': p.symlink_to(p.name)
        elif how == 'up': p.symlink_to('..')
        return f'{sub}/: {how}'
    if kind < .12 and rel.suffix in ('.png', '.jpg'):
        from PIL import Image
        f = io.BytesIO()
        mode = rng.choice(['1', 'L', 'P', 'RGBA', 'I;16', 'CMYK', 'RGB'])
        size = rng.choice([(1, 1), (16, 17), (2000, 1500), (16, 16)])
        Image.new(mode, size).save(f, 'TIFF' if mode == 'CMYK' else 'PNG')
        new, how = f.getvalue(), f'{mode} {size}'
    elif kind < .15 and data[:4] == b'\x89PNG':
        import struct, zlib
        size = rng.choice([(2**31 - 1, 2**31 - 1), (9000, 9000), (0, 5), (16, 2**20)])
        head = struct.pack('>II', *size) + data[24:29]
        check = struct.pack('>I', zlib.crc32(b'IHDR' + head))
        new, how = data[:16] + head + check + data[33:], 'absurd size'
    elif kind < .65 and rel.suffix in CHANGES:
        try: new, how = CHANGES[rel.suffix](rng, data, place, outside), 'structure'
        except (ValueError, TypeError, KeyError, pickle.PicklingError):
            new, how = change_bytes(rng, data), 'bytes'
    else: new, how = change_bytes(rng, data), 'bytes'
    folder.clear(rel).write_bytes(new)
    return f'{rel}: {how}'


# -- what is read

SMALL = dict(size=16, n=2)


def write_views(path, colmap=False):
    "Two instants, seen by two cameras that somebody has calibrated"
    import torch
    from spatialavatar0.camera import orbit
    from spatialavatar0.clip.image import write_image
    (path/'images').mkdir(parents=True)
    cameras, frames = orbit(torch.zeros(3), 1., 2, yaw=(-20, 20), width=16, height=16), []
    table = ['# cameras'], ['# images']
    for k, c in enumerate(cameras):
        table[0].append(f"{k} PINHOLE 16 16 {' '.join(map(str, c.to_colmap()[2].tolist()))}")
        for t in range(2):
            picture = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(2*t + k))
            name, mask = f'images/{t:05d}_{k:02d}.png', f'images/{t:05d}_{k:02d}_mask.png'
            write_image(path/name, picture)
            write_image(path/mask, picture[..., 0])
            (fx, _, cx), (_, fy, cy) = c.K.tolist()[:2]
            frames.append(dict(file_path=name, fg_mask_path=mask, w=16, h=16, fl_x=fx, fl_y=fy, cx=cx, cy=cy,
                               transform_matrix=c.to_opengl().tolist(), timestep_index=t, camera_index=k))
            q, at, _ = c.to_colmap()
            pose = ' '.join(map(str, [*q.tolist(), *at.tolist()]))
            table[1].extend([f'{2*t + k} {pose} {k} {Path(name).name}', '1 2 -1'])
    if not colmap: (path/'transforms.json').write_text(json.dumps(dict(frames=frames)))
    else:
        for name, lines in zip(('cameras', 'images'), table): (path/f'{name}.txt').write_text('\n'.join(lines))


def write_network(recurrent):
    "A matting network of one convolution, and if it is recurrent the mean with what it has seen before"
    from spatialavatar0.track.matte_network import onnx_bytes, onnx_graph
    picture, maps = ('float32', (1, 3, 'h', 'w')), ('float32', ('n', 'c', 'y', 'x'))
    kept = dict(w=np.full((1, 3, 1, 1), .3, np.float32), b=np.zeros(1, np.float32), half=np.float32([.5]))
    if not recurrent:
        return onnx_bytes(onnx_graph([('Conv', ['x', 'w', 'b'], ['y'])], dict(x=picture), dict(y=maps), kept))
    nodes = [('Conv', ['src', 'w', 'b'], ['g']), ('Add', ['g', 'r1i'], ['s']), ('Mul', ['s', 'half'], ['r1o']),
             ('Mul', ['r1o', 'downsample_ratio'], ['pha'])]
    fed = dict(src=picture, r1i=maps, downsample_ratio=('float32', (1,)))
    return onnx_bytes(onnx_graph(nodes, fed, dict(pha=maps, r1o=maps), kept))


def write_flame(path, head):
    "A small model in FLAME's files: arrays, texture coordinates, masks"
    from spatialavatar0.head.model import toy_head
    path.mkdir()
    toy = toy_head(rows=8, n_expression=2)
    names = ('v_template', 'shapedirs', 'posedirs', 'J_regressor', 'weights')
    arrays = {k: getattr(toy, k).numpy() for k in names} | {'f': toy.faces.numpy()}
    arrays['kintree_table'] = np.stack([toy.parents.numpy(), np.arange(len(toy.parents))])
    (path/'a.pkl').write_bytes(pickle.dumps(arrays))
    rows = [f'vt {u} {v}' for u, v in toy.uv.tolist()]
    for f, t in zip((toy.faces + 1).tolist(), (toy.uv_faces + 1).tolist()):
        rows.append('f ' + ' '.join(f'{i}/{j}' for i, j in zip(f, t)))
    (path/'head_template_mesh.obj').write_text('\n'.join(rows))
    (path/'FLAME_masks.pkl').write_bytes(pickle.dumps({k: x.numpy() for k, x in toy.parts.items()}))


def write_pictures(path, head):
    "A picture in each of the usual formats, with a colour profile or without"
    from PIL import Image, ImageCms
    path.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 17, 3), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    exif = picture.getexif(); exif[274] = 6
    for name in ('a.png', 'a.jpg', 'a.webp', 'a.tiff', 'a.gif', 'a.bmp'):
        picture.save(path/name, **({} if name[2:] in ('gif', 'bmp') else dict(icc_profile=profile, exif=exif)))


def write_film(path, head):
    "A tenth of a second"
    import av
    path.mkdir()
    with av.open(str(path/'a.mp4'), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 32, 'yuv420p'
        for k in range(3):
            picture = np.full((16, 32, 3), 80*k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode(None))


def readers():
    "Name -> (write a valid folder, convert it)"
    from spatialavatar0.clip.convert import READERS, convert, recognise
    from spatialavatar0.clip.samples import SAMPLES
    from spatialavatar0.clip.sets import SETS, list_set, write_set
    def keep(codes, cameras, path):
        with open(path, 'wb') as f: np.savez(f, expression=codes.expression.numpy())
    def run(name):
        def go(folder, out, head):
            recognise(folder)
            convert(folder, out, head, name, motion=keep)
        return go
    found = {k: (lambda p, h, w=w, k=k: w(p, h, **SMALL, **({'cameras': 1} if k == 'vhap' else {})),
                 run(k))
             for k, w in SAMPLES.items()}
    assert set(found) == set(READERS)
    found['films'] = (lambda p, h: SAMPLES['nersemble'](p, h, **SMALL, film=True), run('nersemble'))
    from spatialavatar0.track.views import look, read_colmap, read_transforms
    def see(shots):
        for s in shots: look(s)
    found['transforms'] = (lambda p, h: write_views(p),
                           lambda p, out, h: see(read_transforms(p/'transforms.json')))
    found['colmap'] = lambda p, h: write_views(p, True), lambda p, out, h: see(read_colmap(p))
    for k in SETS: found[k] = (lambda p, h, k=k: write_set(p, k), lambda p, out, h, k=k: list_set(p, k))
    return found | files()


def files():
    "Name -> (write a valid file into a folder, read it): motions, and avatars as far as they are read"
    import torch
    from spatialavatar0.clip.image import read_image
    from spatialavatar0.drive import arkit, compressed_ply, export, glb, motion, presets, splat_file, spz, voice
    from spatialavatar0.generate.config import find, read_config
    from spatialavatar0.generate.generator import Config, Generator
    from spatialavatar0.head.flame import load_flame
    from spatialavatar0.head.model import HeadModel, toy_head
    from spatialavatar0.head.uv import UVLayout
    from spatialavatar0.splat import ply
    from spatialavatar0.splat.avatar import Avatar
    from spatialavatar0.track.matte_network import MatteNetwork
    from spatialavatar0.track.video import Video
    sys.path.insert(0, str(Path(__file__).parent))
    from test_motion import as_csv, as_json, as_wav
    blink = presets.preset('blink', 30.)
    toy = toy_head(n_expression=2)
    TINY = Config(grid=32, channels=4, picture=64, feature=8, summary=16, width=8, most=16, levels=2, style=8, memory=2)
    def avatar(to=None):
        def write(p, head):
            p.mkdir()
            made = Avatar.rest(toy, UVLayout(toy, 16))
            if to: return export.export(made, to, p/f'a{export.FORMATS[to].suffix}')
            made.save(p/'a.safetensors')
        return write
    def bytes_of(name, make):
        def write(p, head): p.mkdir(); (p/name).write_bytes(make(blink))
        return write
    def saved(p, head): p.mkdir(); blink.save(p/'a.npz')
    def model(p, head): p.mkdir(); toy.save(p/'a.npz')
    def read(name, how):
        def go(folder, out, head):
            got = how(folder/name)
            if isinstance(got, HeadModel): return
            if isinstance(got, motion.Motion): parts = [getattr(got, k) for k in motion.TRACKS]
            elif isinstance(got, Avatar): parts = list(got.gaussians.parameters().values())
            else: parts = [x for x in (got[0] if isinstance(got[0], tuple) else got) if isinstance(x, torch.Tensor)]
            assert parts and all(x.isfinite().all() for x in parts), 'what was read is not finite'
        return go
    as_head = lambda path: Avatar.load(path, toy)
    def network(recurrent):
        def write(p, head):
            p.mkdir()
            (p/'a.onnx').write_bytes(write_network(recurrent))
            if not recurrent:
                (p/'preprocessor_config.json').write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
        return write
    def pictures(folder, out, head):
        for p in sorted(folder.iterdir()): assert read_image(p)[0].isfinite().all()
    def film(folder, out, head):
        for _, picture in Video(folder/'a.mp4').frames(): assert picture.ndim == 3
    def weights(p, head): p.mkdir(); Generator(TINY, toy).save(p/'a.safetensors')
    def generator(folder, out, head): Generator.load(folder/'a.safetensors', toy)
    def page(p, head): p.mkdir(); shutil.copy(find('small_phase1'), p/'a.yaml')
    def mattes(folder, out, head):
        net, image = MatteNetwork(folder/'a.onnx'), torch.rand(40, 48, 3)
        for t in range(3):
            alpha = net(image, t > 0)
            assert alpha.shape == (40, 48) and 0 <= alpha.min() and alpha.max() <= 1
    return {'motion': (saved, read('a.npz', motion.Motion.load)),
            'motion csv': (bytes_of('a.csv', as_csv), read('a.csv', arkit.read_csv)),
            'motion json': (bytes_of('a.json', as_json), read('a.json', arkit.read_json)),
            'motion wav': (bytes_of('a.wav', as_wav), read('a.wav', voice.from_wav)),
            'head': (model, read('a.npz', HeadModel.load)),
            'avatar': (avatar(), read('a.safetensors', as_head)),
            'ply': (avatar('ply'), read('a.ply', ply.read_ply)),
            'bound ply': (avatar('bound-ply'), read('a.ply', ply.read_bound_ply)),
            'compressed ply': (avatar('compressed-ply'), read('a.ply', compressed_ply.read_compressed_ply)),
            'splat': (avatar('splat'), read('a.splat', splat_file.read_splat)),
            'spz': (avatar('spz'), read('a.spz', spz.read_spz)),
            'splat glb': (avatar('splat-glb'), read('a.glb', glb.read_splat_glb)),
            'flame': (write_flame, lambda folder, out, head: load_flame(folder/'a.pkl', 3)),
            'pictures': (write_pictures, pictures),
            'film': (write_film, film),
            'generator': (weights, generator),
            'config': (page, lambda folder, out, head: read_config(folder/'a.yaml')),
            'matte network': (network(False), mattes),
            'recurrent network': (network(True), mattes)}


forbidden = {'os.system', 'subprocess.Popen', 'os.posix_spawn', 'os.exec', 'os.fork', 'os.forkpty',
             'pty.spawn', 'socket.connect'}
heard = []  # what Python's audit reported during a case


def listen(event, args):
    if event in forbidden: heard.append(f'{event} {args[:1]}')
    elif event == 'open' and isinstance(args[0], str):
        if args[0].endswith(SECRET) or args[0] == '/etc/passwd': heard.append(f'open {args[0]}')


class Case:
    "The folders in which one reader's cases run"
    def __init__(self, name, head, base):
        from PIL import Image
        self.base, self.head = base, head
        self.within = base/'a'/'s\u00e4mple \u56fe b'
        self.within.mkdir(parents=True)
        self.out = base/'out'; self.out.mkdir()
        self.secret, self.pwned = base/SECRET, base/'pwned'
        Image.new('RGB', (16, 16)).save(self.secret)
        write, self.run = readers()[name]
        write(self.within/'one', head)
        self.folder, self.name = Folder(self.within/'one'), name
        self.run(self.folder.path, self.out/'me', head)  # it is valid
        self.tidy()

    def tidy(self):
        for p in self.out.iterdir(): shutil.rmtree(p) if p.is_dir() else p.unlink()

    def __call__(self, number, seed):
        "'read', 'refused', or what went wrong; and what was changed"
        from spatialavatar0.core import UserError
        rng = random.Random(f'{seed} {self.name} {number}')
        try: what = mutate(rng, self.folder, self.pwned, self.secret)
        except Exception as e: raise RuntimeError(f'the fuzzer itself, case {number}') from e
        heard.clear()
        end = 'read'
        try:
            with redirect_stderr(io.StringIO()): self.run(self.folder.path, self.out/'me', self.head)
        except UserError as e:
            end = 'refused'
            if str(self.within) not in str(e) and str(self.out) not in str(e) or '\n' in str(e):
                end = f'no file named: {e}'
        except Exception as e: end = f'{type(e).__name__}: {str(e)[:200]}'
        left = [p.name for p in self.out.iterdir() if end != 'read' or p.name != 'me']
        if heard: end = f'not allowed: {heard}'
        elif self.pwned.exists() or Path('/tmp/pwned').exists(): end = 'executed'
        elif sorted(p.name for p in self.base.iterdir()) != ['a', 'out', SECRET]: end = 'wrote outside'
        elif left: end = f'left behind: {left}'
        self.tidy(); self.folder.restore()
        return end, what


# -- the worker, and who watches it

def worker(name, first, count, seed, base):
    "Cases from `first` on; a line for each end"
    from spatialavatar0.clip.samples import flame_like
    for k, n in dict(RLIMIT_CORE=0, RLIMIT_FSIZE=500*2**20, RLIMIT_NOFILE=512).items():
        resource.setrlimit(getattr(resource, k), (n, n))
    case = Case(name, flame_like(), Path(base))
    used = int(next(x for x in open('/proc/self/status') if x.startswith('VmData')).split()[1])*1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    warnings.simplefilter('ignore')
    sys.addaudithook(listen)
    resident = lambda: int(open('/proc/self/statm').read().split()[1])*resource.getpagesize()
    start = None
    for i in range(first, first + count):
        end, what = case(i, seed)
        if i == first + 200: start = resident()
        grown = (resident() - start)/2**20 if start else 0
        if grown > 400: end, start = f'grew by {grown:.0f} MB', resident()
        print(json.dumps([i, end, what]), flush=True)


def cpu(pid):
    "What a process is doing, 'R' for running, and the seconds of the processor that it used"
    try: state, *words = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError: return 'Z', 0.
    return state, sum(map(int, words[10:12]))/os.sysconf('SC_CLK_TCK')


def watch(name, count, seed, hang=HANG, first=0):
    "Run the cases `first` to `count` of a reader; how they ended, and the bad ones"
    ends, bad = Counter(), []
    env = os.environ | dict(OMP_NUM_THREADS='1', TQDM_DISABLE='1', PYTHONHASHSEED='0', PYTHONUTF8='1')
    while first < count:
        base = tempfile.mkdtemp(dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
        words = ['--worker', name, '--first', first, '--count', count - first, '--seed', seed, '--base',
                 base]
        process = subprocess.Popen([sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE,
                                   bufsize=0, env=env)
        try:
            began, after, used = first, 'ended', 0
            with selectors.DefaultSelector() as s:
                s.register(process.stdout, selectors.EVENT_READ)
                while True:
                    if not s.select(180 if first == began else hang):
                        state, now = cpu(process.pid)
                        if state in 'RD' and now - used < hang: continue  # the machine is slow, not the reader
                        after = 'hung'; process.kill(); break
                    used = cpu(process.pid)[1]
                    line = process.stdout.readline()
                    if not line: break
                    i, end, what = json.loads(line)
                    ends[end if end in ('read', 'refused') else 'BAD'] += 1
                    if end not in ('read', 'refused'): bad.append((i, end, what))
                    first = i + 1
            status = process.wait()
            if first < count:
                if first == began and status:
                    raise SystemExit(f'{name}: the worker does not start ({status})')
                ends['BAD'] += 1
                bad.append((first, after if after == 'hung' else f'died, status {status}', '?'))
                first += 1
        finally:
            process.kill(); process.wait()
            shutil.rmtree(base, ignore_errors=True)
    return ends, bad


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--count', type=int, default=10_000)
    p.add_argument('--reader', action='append')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--first', type=int, default=0, help='go on from this case, up to --count')
    p.add_argument('--worker'); p.add_argument('--base')
    a = p.parse_args()
    if a.worker: return worker(a.worker, a.first, a.count, a.seed, a.base)
    failed = 0
    print(f"{'reader':<18}{'mutated':>9}{'read':>9}{'refused':>9}{'bad':>6}{'seconds':>9}")
    for name in a.reader or readers():
        began = time.time()
        ends, bad = watch(name, a.count, a.seed, first=a.first)
        failed += len(bad)
        counts = sum(ends.values()), ends['read'], ends['refused']
        print(f"{name:<18}{counts[0]:>9}{counts[1]:>9}{counts[2]:>9}{len(bad):>6}{time.time() - began:>9.0f}",
              flush=True)
        for i, end, what in bad[:20]: print(f'  case {i}: {end}  [{what}]')
    return 1 if failed else 0


if __name__ == '__main__': sys.exit(main())
