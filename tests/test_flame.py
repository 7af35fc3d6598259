"A head model in FLAME's files, from its import to a film; the model is made up, from the open head's own arrays"
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from spatialavatar0.cli import main
from spatialavatar0.head.model import HeadModel, open_head

skimage = pytest.importorskip('skimage.data')
pytest.importorskip('mediapipe')
pytestmark = pytest.mark.filterwarnings('ignore')


def write_flame(folder):
    "FLAME's .pkl, its template with texture coordinates, and its masks"
    head = open_head()
    joints = head.parents.numpy().copy()
    joints[0] = 2**32 - 1
    shape, expression = head.shapedirs.tensor_split([head.n_shape], -1)
    empty = shape.new_zeros(*shape.shape[:2], 300 - head.n_shape)  # FLAME has 300 columns of shape
    arrays = dict(v_template=head.v_template, f=head.faces, shapedirs=torch.cat([shape, empty, expression], -1),
                  posedirs=head.posedirs, J_regressor=head.J_regressor, weights=head.weights)
    arrays = {k: x.numpy() for k, x in arrays.items()}
    arrays['kintree_table'] = np.stack([joints, np.arange(len(joints))])
    (folder/'flame.pkl').write_bytes(pickle.dumps(arrays))
    rows = [f'v {x} {y} {z}' for x, y, z in head.v_template.tolist()]
    rows += [f'vt {u} {v}' for u, v in head.uv.tolist()]
    for f, t in zip((head.faces + 1).tolist(), (head.uv_faces + 1).tolist()):
        if min(t) > 0: rows.append('f ' + ' '.join(f'{i}/{j}' for i, j in zip(f, t)))
    (folder/'head_template_mesh.obj').write_text('\n'.join(rows))
    masks = {'scalp': head.parts['scalp'].numpy(), 'left_eyeball': head.parts['left_eye'].numpy(),
             'right_eyeball': head.parts['right_eye'].numpy(), 'face': head.parts['face'].numpy()}
    (folder/'FLAME_masks.pkl').write_bytes(pickle.dumps(masks))
    return folder/'flame.pkl'


def run(capfd, *words):
    "Status, and what was said"
    try: status = main([str(w) for w in words])
    except SystemExit as e: status = e.code
    return status, capfd.readouterr()


def test_from_import_to_film(tmp_path, capfd):
    source, ready, photo = write_flame(tmp_path), tmp_path/'flame.npz', tmp_path/'me.png'
    Image.fromarray(skimage.astronaut()).save(photo)
    clip, avatar, better, film = (tmp_path/k for k in ('clip', 'a.safetensors', 'b.safetensors', 'c.mp4'))
    status, said = run(capfd, 'track', photo, '-o', clip, '--head', source)
    assert status == 2 and 'no landmarks' in said.err and f'head import {source}' in said.err
    assert run(capfd, 'head', 'import', source, '-o', ready)[0] == 0
    model = HeadModel.load(ready)
    assert len(model.lmk_faces) == 478 and {'left_eye', 'scalp'} <= model.parts.keys()
    own = open_head()
    found, known = model.landmarks(model.v_template), own.landmarks(own.v_template)
    assert (found - known).norm(dim=-1).median() < .004  # metres: the same face, found anew
    for words in (['track', photo, '-o', clip, '--size', 128], ['create', clip, '-o', avatar],
                  ['refine', avatar, clip, '-o', better, '--iterations', 2],
                  ['drive', better, '-o', film, '--preset', 'turn', '--size', 128],
                  ['export', better, '--to', 'bound-ply', '-o', tmp_path/'b.ply']):
        assert run(capfd, *words, '--head', ready)[0] == 0, words
    status, said = run(capfd, 'create', clip, '-o', avatar)  # the open head, which did not see that clip
    assert status == 2 and model.id in said.err


def test_flame_without_texture_coordinates(tmp_path, capfd):
    source = write_flame(tmp_path)
    (tmp_path/'head_template_mesh.obj').unlink()
    status, said = run(capfd, 'head', 'import', source, '-o', tmp_path/'flame.npz')
    assert status == 2 and 'head_template_mesh.obj' in said.err and not (tmp_path/'flame.npz').exists()
