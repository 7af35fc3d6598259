"Training is the same on one process and on two, today and after a kill; and every config that ships can be run"
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

pytest.importorskip('accelerate')

from spatialavatar0.camera import Camera
from spatialavatar0.clip.clip import Clip, Frame
from spatialavatar0.core import UserError
from spatialavatar0.generate.config import pages, read_config
from spatialavatar0.generate.generator import Generator
from spatialavatar0.generate.schedule import optimizer_for
from spatialavatar0.generate.train import begin, start, train
from spatialavatar0.head.model import HeadModel, toy_head
from spatialavatar0.head.uv import UVLayout
from spatialavatar0.splat.avatar import Avatar

TINY = dict(grid=16, levels=2, width=8, most=16, channels=8, feature=8, summary=16, style=16, memory=2, picture=32)

# One process of those that train together: folder, name of the result, page
WORKER = """
import json, sys
from pathlib import Path
from spatialavatar0.generate.train import train
from spatialavatar0.head.model import HeadModel
if __name__ == '__main__':
    folder, name, page = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    train(page, folder/name, resume=True, head=HeadModel.load(folder/'head.npz'))
"""


def egg(head, layout, k):
    "Frames of an egg of some colour, by two cameras"
    at = layout.points(head.vertices(head.codes()))
    shown = Avatar.rest(head, layout, colour=.5 + .4*(60*at + k).sin(), opacity=.99)
    for t in range(3):
        codes = shown.codes().replace(neck=torch.tensor([0, .3*t - .3, 0]), expression=torch.full((4,), t/3))
        for c, x in enumerate((-.3, .3)):
            camera = Camera.look_at(torch.tensor([x, 0, .9]), torch.zeros(3), width=32, height=32)
            with torch.no_grad(): image, alpha = shown.render(codes, camera)
            yield Frame((image/alpha[..., None].clamp(min=1e-3)).clamp(0, 1), alpha, camera, codes, t, str(c))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a head and clips of five eggs"
    folder = tmp_path_factory.mktemp('eggs')
    toy_head(rows=10).save(folder/'head.npz')
    head = HeadModel.load(folder/'head.npz')
    layout = UVLayout(head, 24)
    (folder/'clips').mkdir()
    for k in range(5): Clip.write(egg(head, layout, k), folder/'clips'/str(k), head)
    return folder


@pytest.fixture
def page(place):
    "A small run"
    return dict(name='eggs', model=TINY, iterations=6, batch=4, optimization=dict(rate=1e-3),
                losses=dict(jac=0.), data=dict(source=str(place/'clips'), size=32, held_out=1, workers=0, questions=2),
                watch=dict(log=1, validate=100, sheet=100, checkpoint=2))


@pytest.fixture
def head(place): return HeadModel.load(place/'head.npz')


def words(place, name, page): return [sys.executable, '-c', WORKER, place, name, json.dumps(page)]


def weights(path):
    from safetensors.torch import load_file
    return load_file(path/'generator.safetensors')


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def together(place, name, page, n=2):
    "`n` processes over gloo, as `accelerate launch` starts them"
    world = dict(os.environ, WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1',
                 MASTER_PORT=str(free_port()), ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1')
    each = [subprocess.Popen(words(place, name, page), env=dict(world, RANK=str(r), LOCAL_RANK=str(r)),
                             stderr=subprocess.PIPE, text=True) for r in range(n)]
    errors = [p.communicate(timeout=240)[1] for p in each]
    assert [p.returncode for p in each] == [0]*n, errors


@pytest.mark.skipif(not torch.distributed.is_available(), reason='torch was built without distributed')
def test_two_processes_are_one_with_twice_the_batch(place, page, head):
    "But for the order of additions: the gradient is the same; the learning rate of Adam's first steps makes much of that"
    page = dict(page, iterations=3, optimization=dict(rate=1e-4))
    together(place, 'two', dict(page, batch=2))
    train(page, place/'one', head=head)
    first = start(read_config(page), head).generator.state_dict()
    one, two = weights(place/'one'), weights(place/'two')
    moved = torch.cat([(one[k] - first[k]).flatten() for k in one])
    apart = torch.cat([(one[k] - two[k]).flatten() for k in one])
    assert moved.norm() > 0 and apart.norm() < .02*moved.norm()
    rows = [(place/name/'log.csv').read_text().splitlines() for name in ('one', 'two')]
    assert len(rows[0]) == len(rows[1]) == 4
    at = rows[0][0].split(',').index('gradient')
    lengths = [[float(row.split(',')[at]) for row in table[1:]] for table in rows]
    assert lengths[1][0] == pytest.approx(lengths[0][0], rel=1e-5) and lengths[1] == pytest.approx(lengths[0], rel=1e-3)


def test_killed_and_gone_on(place, page, head):
    "kill -9 after a checkpoint, whenever that is"
    train(page, place/'whole', head=head)
    slow = dict(page, iterations=6)
    process = subprocess.Popen(words(place, 'killed', slow), stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not (place/'killed'/'generator.safetensors').exists() and time.monotonic() < end: time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert subprocess.run(words(place, 'killed', slow)).returncode == 0
    one, two = weights(place/'whole'), weights(place/'killed')
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not list((place/'killed').glob('.*'))


def test_twenty_steps_twice(place, page, head):
    page = dict(page, iterations=20, batch=1, losses={})
    one, two = (train(page, place/name, head=head).state_dict() for name in ('once', 'twice'))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_workers_change_nothing(place, page, head):
    there = dict(page, data=dict(page['data'], workers=2))
    one, two = (train(p, place/name, head=head).state_dict() for name, p in (('none', page), ('workers', there)))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_wandb_offline(place, page, head, tmp_path, monkeypatch):
    pytest.importorskip('wandb').teardown()  # what it read of the environment for another test
    for name, x in dict(WANDB_MODE='offline', WANDB_DIR=str(tmp_path), WANDB_SILENT='true').items():
        monkeypatch.setenv(name, x)
    train(dict(page, iterations=1, watch=dict(page['watch'], board='wandb')), tmp_path/'out', head=head)
    assert list((tmp_path/'wandb').glob('offline-run-*/*.wandb'))


@pytest.mark.parametrize('n', range(1, 5))
def test_full_disk(place, page, head, tmp_path, monkeypatch, n):
    "Whatever write is the first that does not fit: one line, nothing half-written, and it goes on"
    import errno
    sync, count = os.fsync, iter(range(1, 1000))

    def full(descriptor):
        if next(count) >= n: raise OSError(errno.ENOSPC, 'No space left on device')
        return sync(descriptor)
    monkeypatch.setattr(os, 'fsync', full)
    page = dict(page, iterations=3, batch=1)
    with pytest.raises(UserError, match='no space left on device'): train(page, tmp_path/'out', head=head)
    assert not list((tmp_path/'out').glob('.*'))
    monkeypatch.setattr(os, 'fsync', sync)
    resumed = train(page, tmp_path/'out', resume=True, head=head).state_dict()
    whole = train(page, tmp_path/'whole', head=head).state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize('name', pages())
def test_configs_that_ship(name, head, tmp_path):
    "They can be read, and their optimizer can be made for a network of their kind"
    c = read_config(name)
    assert c.name == name
    small = replace(c, preset='small', model=TINY, start='')
    state = begin(small, tmp_path/'checkpoint.pt', False, head)
    assert isinstance(state.generator, Generator) and (state.anchor is None) == (c.questions.phase == 1)
    assert len(optimizer_for(state.generator, c.optimization).param_groups) == (1 if c.questions.phase == 1 else 6)
