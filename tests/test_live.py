"Live driving from landmarks of made-up people; threads, the notebook's loop, and faces that go away"
import asyncio
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from spatialavatar0.core import UserError
from spatialavatar0.drive.live import Live, Newest, OneEuro, Performer, Shot, film
from spatialavatar0.drive.motion import compose
from spatialavatar0.head.model import open_head
from spatialavatar0.track.fit import Prior
from spatialavatar0.track.sequence import Rig
from spatialavatar0.track.track import portrait_camera

head = open_head()
camera = portrait_camera(400, 24.)
through = lambda x, seconds: x  # a filter that is none


def seen(codes):
    "Landmarks (478,2) of a head in the picture, with a rest 15 cm under the middle"
    moved = codes.replace(translation=codes.translation + torch.tensor([0., -.02, 0]))
    return camera.project(head.landmarks(head.vertices(moved)))[0]


def met(shape, pose=torch.zeros(6), model=head, **kwargs):
    "A performer who has met somebody at rest"
    p = Performer(model, 400, 400, fov=24., settle=.2, steady=through, **kwargs)
    rest = head.codes().replace(shape=shape, pose=pose)
    for k in range(8): assert p(seen(rest), k/25) is None or k > 4
    return p


def settled(perform, codes, start=1.):
    "What it says of a face that stays"
    for k in range(6): m = perform(seen(codes), start + k/25)
    return m


def shape(seed): return .5*torch.randn(head.n_shape, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


@pytest.mark.parametrize('seed', [0, 1])
def test_strong_actions_are_found_strong(seed):
    "Whoever it is; an action is not held back before it is fully done"
    smile = head.act(mouthSmileLeft=.8, mouthSmileRight=.8, jawOpen=.5).replace(shape=shape(seed))
    m = settled(met(shape(seed)), smile)
    found = dict(zip(m.names, m.expression[0].tolist()))
    assert .5 < found['mouthSmileLeft'] < 1.1 and .5 < found['mouthSmileRight'] < 1.1, found
    assert .6 < float(m.jaw[0, 0]/smile.pose[3]) < 1.4


def test_what_is_likely_is_the_same_for_a_photograph_and_a_film():
    "An expression of 0.6 costs what its prior says: nothing bounds it below 1"
    rig, prior = Rig(head), Prior()
    x = torch.zeros(1, sum(rig.sizes), dtype=torch.float64)
    k = head.expression_names.index('browInnerUp')
    x[0, 15 + k] = .6
    assert abs(float(rig.likely(x, prior)[0]) - (.6/prior.expression)**2) < 1e-9


def test_a_nod_is_a_nod_from_the_side():
    "Somebody who sits askew before the camera turns the avatar about its own axes"
    askew = torch.tensor([0., .35, 0, 0, 0, 0])
    nod = torch.tensor([.2, 0, 0])
    codes = head.codes().replace(shape=shape(2), pose=torch.cat([compose(askew[:3], nod), askew[3:]]))
    straight = head.codes().replace(shape=shape(2), pose=torch.cat([nod, nod*0]))
    for perform, face in ((met(shape(2), askew), codes), (met(shape(2)), straight)):
        m = settled(perform, face)
        assert (m.neck[0] - nod).norm() < .05, m.neck
        assert m.rotation.norm() == 0


def test_a_head_without_named_actions():
    "Its numbered expressions are fitted, and move the head as they moved the face"
    numbered = replace(head, expression_names=tuple(f'expression_{k}' for k in range(head.n_expression)))
    perform = met(shape(3), model=numbered)
    face = head.act(jawOpen=.6, mouthSmileLeft=.5).replace(shape=shape(3))
    m = settled(perform, face)
    assert m.head == numbered.id
    rest = numbered.codes().replace(shape=shape(3))
    mark = lambda c: numbered.landmarks(numbered.vertices(c))
    want = head.landmarks(head.vertices(face)) - mark(rest)
    stay = m.codes(numbered, rest)[0].replace(translation=torch.zeros(3))
    assert (mark(stay) - mark(rest) - want).norm(dim=-1).mean() < .4*want.norm(dim=-1).mean()


def test_a_face_that_goes_away_comes_back():
    "Elsewhere in the picture, and is found there at once"
    perform = met(shape(4))
    moved = head.codes().replace(shape=shape(4), translation=torch.tensor([.08, .0, 0]))
    settled(perform, head.codes().replace(shape=shape(4)))
    assert perform(None, 2.) is None
    m = perform(seen(moved), 2.1)
    assert abs(float(m.translation[0, 0]) - .08) < .015 and m.neck.norm() < .1


def test_no_landmarks_no_performer():
    bare = replace(head, lmk_faces=head.lmk_faces[:0], lmk_bary=head.lmk_bary[:0])
    with pytest.raises(ValueError, match='landmarks, want 478'): Performer(bare, 64, 64)


def test_filter_is_never_beyond_what_it_saw():
    "A step: the answer rises from the one value to the other, and does not overshoot"
    euro, y = OneEuro(torch.ones(3)), []
    for k in range(60): y.append(euro(torch.tensor([0., 1, -2])*(k >= 20), k/30))
    y = torch.stack(y)
    assert (y[1:, 1] - y[:-1, 1] >= -1e-6).all() and y[-1, 1] > .97 and (y[:, 2] + 2*y[:, 1]).abs().max() < .3
    assert not y[:, 0].any()


def test_only_the_newest_is_taken():
    "A taker who is slow gets late pictures never, and missed ones are counted"
    def ticking():
        for k in range(40): time.sleep(.005); yield k, time.perf_counter()
    source, ages, got = Newest(ticking()), [], []
    for k, made in source:
        got.append(k); time.sleep(.03)
    assert got == sorted(set(got)) and got[-1] == 39 and source.missed == 40 - len(got) > 0


def test_a_source_that_fails_is_heard():
    def broken():
        yield 1
        raise UserError('the plug was pulled', remedy='put it in')
    with pytest.raises(UserError, match='plug'): list(Newest(broken()))
    with pytest.raises(UserError, match='no such file'): list(Newest(film('nowhere.mp4')))


def test_the_notebook_goes_on():
    "`start` shares the loop: others run between two pictures, and `stop` ends it"
    faces = [seen(head.act(jawOpen=.02*k).replace(shape=shape(5))) for k in range(20)]
    shown, others, threads = [], [], set()
    live = Live(head, shown.append, watch=lambda p: faces[int(p[0, 0, 0])], settle=.05, fov=24.)
    def source():
        for k in range(20):
            yield Shot(np.full((400, 400, 3), k, np.uint8), k/25)
            while len(live.took) <= k: time.sleep(.001)
    async def notebook():
        live.start(source())
        while not live.task.done():
            others.append(len(live.took)); threads.add(threading.get_ident())
            await asyncio.sleep(.001)
        await live.task
    asyncio.run(notebook())
    assert len(live.took) == 20 and len(shown) > 10 and len(set(others)) > 10
    assert live.newest.missed == 0 and shown[-1].jaw[0, 0] > .03
    live.stop()
    assert live.latency().keys() == {'waited', 'detect', 'fit', 'show', 'total'}


def test_straight_ahead():
    "Where the camera is ahead of the body, how the head was held at rest is shown, and the neck's joint stays"
    askew = torch.tensor([.05, .3, -.1])
    perform = met(shape(6), torch.cat([askew, torch.zeros(3)]), ahead=True)
    m = settled(perform, head.codes().replace(shape=shape(6), pose=torch.cat([askew, torch.zeros(3)])))
    assert (m.neck[0] - askew).norm() < .05 and m.translation.norm() < .004 and m.expression.abs().max() < .05
