"Long work is stopped in every way that people know, and goes on as if nothing had happened"
import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from spatialavatar0.camera import Camera
from spatialavatar0.clip.clip import Clip, Frame
from spatialavatar0.core import UserError
from spatialavatar0.head.model import HeadModel, toy_head
from spatialavatar0.head.uv import UVLayout
from spatialavatar0.refine.refine import short
from spatialavatar0.refine.run import run
from spatialavatar0.splat.avatar import Avatar

CHECKPOINT = '.checkpoint.safetensors'

# A process whose children refine and are killed, each a random while after a random iteration; another one goes on.
# What it prints is whether the kill came in time, and whether a checkpoint was there by then.
KILLS = """
import os, random, signal, sys, threading
from pathlib import Path
import torch
from spatialavatar0.clip.clip import Clip
from spatialavatar0.head.model import HeadModel
import spatialavatar0.refine.refine as loop
from spatialavatar0.refine.refine import refine, short
from spatialavatar0.refine.run import run
from spatialavatar0.splat.avatar import Avatar

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
head = HeadModel.load(folder/'head.npz')
avatar, clip, settings = Avatar.load(folder/'egg.safetensors', head), Clip(folder/'clip', head), short(30)
refine(avatar, clip, short(2))  # all kernels are loaded

def doomed(last, seconds, step=loop.take_step, count=iter(range(30))):
    "Steps, in the one numbered `last` of which a clock starts to tick"
    def take(*args):
        if next(count) == last: threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return step(*args)
    return take

def child(name, *doom):
    if pid := os.fork(): return pid
    if doom: loop.take_step = doomed(*doom)
    try: run(avatar, clip, folder/f'{name}.safetensors', settings, resume=True, every=3, room=0)
    except BaseException as e: print(repr(e), file=sys.stderr, flush=True); os._exit(1)
    os._exit(0)

os.waitpid(child('whole'), 0)
moments = random.Random(4)
for k in range(kills):
    status = os.waitpid(child(k, moments.randrange(24), moments.uniform(0, .02)), 0)[1]
    there = (folder/f'{k}.checkpoint.safetensors').exists()
    print(os.WIFSIGNALED(status), there, flush=True)
    assert os.waitpid(child(k), 0)[1] == 0
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a head, a grey egg, and a clip of a coloured one that turns"
    folder = tmp_path_factory.mktemp('egg')
    head = toy_head(rows=10)
    head.save(folder/'head.npz')
    head = HeadModel.load(folder/'head.npz')
    Avatar.rest(head, UVLayout(head, 24)).save(folder/'egg.safetensors')
    layout = UVLayout(head, 24)
    there = layout.points(head.vertices(head.codes()))
    coloured = Avatar.rest(head, layout, colour=.5 + .35*(60*there).sin(), opacity=.99)
    camera = Camera.look_at(torch.tensor([0., 0, .9]), torch.zeros(3), width=48, height=48)
    frames = []
    for t in range(6):
        codes = coloured.codes().replace(neck=torch.tensor([0, .1*t - .2, 0]))
        with torch.no_grad(): image, alpha = coloured.render(codes, camera)
        frames.append(Frame(image/alpha[..., None].clamp(min=1e-3), alpha, camera, codes, t))
    Clip.write(frames, folder/'clip', head)
    return folder


@pytest.fixture
def begun(place, tmp_path):
    "`run` on that clip, with its result in an empty folder"
    head = HeadModel.load(place/'head.npz')
    avatar, clip = Avatar.load(place/'egg.safetensors', head), Clip(place/'clip', head)
    out = tmp_path/'me.safetensors'
    return lambda out=out, settings=short(12), **more: run(avatar, clip, out, settings, **dict(every=3) | more)


def words(place, out, *more):
    "A command line"
    main = 'import sys; from spatialavatar0.cli import main; sys.exit(main())'
    return [sys.executable, '-c', main, 'refine', place/'egg.safetensors', place/'clip', '-o', out,
            '--head', place/'head.npz', *more]


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork here')
def test_twenty_kills_twenty_identical_avatars(place):
    done = subprocess.run([sys.executable, '-c', KILLS, place, '20'], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stdout)
    kills = [line.split() for line in done.stdout.splitlines()]
    assert all(killed == 'True' for killed, _ in kills) and sum(there == 'True' for _, there in kills) >= 5
    whole = (place/'whole.safetensors').read_bytes()
    assert all((place/f'{k}.safetensors').read_bytes() == whole for k in range(20))
    assert not list(place.glob('*'+CHECKPOINT)) and not list(place.glob('.*'))


def wait_for(path, process, seconds=120):
    "Until a file is there"
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(.02)


def test_command_line_is_stopped_killed_and_goes_on(place, tmp_path):
    "Ctrl-C, then kill -9, then to the end; and the same in one go"
    out, whole, n = tmp_path/'me.safetensors', tmp_path/'whole.safetensors', ('--iterations', '900')
    begin = lambda *more: subprocess.Popen(words(place, out, *n, *more), stdout=subprocess.PIPE,
                                           stderr=subprocess.PIPE, text=True)
    first = begin()
    wait_for(out.with_suffix('.refine.csv'), first)
    first.send_signal(signal.SIGINT)
    text, err = first.communicate()
    assert (first.returncode, err) == (130, 'spatialavatar0: refine: stopped\n')
    assert 'me.safetensors' in text and '--resume' in text and out.exists()
    second = begin()
    text, err = second.communicate()
    assert second.returncode == 2 and '--resume' in err and err.count('\n') == 1
    stopped = out.with_suffix(CHECKPOINT).stat().st_mtime_ns
    third = begin('--resume')
    while third.poll() is None and out.with_suffix(CHECKPOINT).stat().st_mtime_ns == stopped: time.sleep(.01)
    third.kill()
    third.communicate()
    assert third.returncode == -signal.SIGKILL
    assert subprocess.run(words(place, out, *n, '--resume')).returncode == 0
    assert subprocess.run(words(place, whole, *n)).returncode == 0
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'me.refine.csv', 'me.safetensors', 'whole.refine.csv', 'whole.safetensors']


def test_room_for_frames_changes_no_bit(begun, tmp_path):
    begun()
    begun(tmp_path/'poor.safetensors', room=0)
    assert (tmp_path/'me.safetensors').read_bytes() == (tmp_path/'poor.safetensors').read_bytes()


@pytest.mark.parametrize('n', range(1, 7))
def test_full_disk(begun, tmp_path, monkeypatch, n):
    "Whatever write is the first that does not fit: one line, nothing half-written, and it goes on"
    sync, count = os.fsync, iter(range(1, 1000))

    def full(descriptor):
        if next(count) >= n: raise OSError(errno.ENOSPC, 'No space left on device')
        return sync(descriptor)
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match='no space left on device') as e: begun()
    assert '\n' not in str(e.value)
    assert not list(tmp_path.glob('.*')) and not (tmp_path/'me.safetensors').exists()
    monkeypatch.setattr(os, 'fsync', sync)
    resumed = begun(resume=True)
    whole = begun(tmp_path/'whole.safetensors')
    for name, x in whole.gaussians.parameters().items(): assert torch.equal(x, resumed.gaussians.parameters()[name])


@pytest.mark.parametrize('spoil', ['text', 'half', 'empty', 'avatar'])
def test_what_is_no_checkpoint(begun, place, tmp_path, spoil):
    checkpoint = tmp_path/('me'+CHECKPOINT)
    avatar = (place/'egg.safetensors').read_bytes()
    checkpoint.write_bytes(dict(text=b'dear diary', half=avatar[:1000], empty=b'', avatar=avatar)[spoil])
    with pytest.raises(UserError, match='checkpoint') as e: begun(resume=True)
    assert '\n' not in str(e.value) and not (tmp_path/'me.safetensors').exists()


def test_wandb_offline(begun, tmp_path, monkeypatch):
    pytest.importorskip('wandb').teardown()  # what it read of the environment for another test
    for name, x in dict(WANDB_MODE='offline', WANDB_DIR=str(tmp_path), WANDB_SILENT='true').items():
        monkeypatch.setenv(name, x)
    begun(log='wandb')
    assert list((tmp_path/'wandb').glob('offline-run-*/*.wandb'))
