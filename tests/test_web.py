"The web page in a real browser: its pixels, its sliders, its keys and fingers; and the bytes, without a browser"
import base64
import io
import json
import time
from dataclasses import replace

import browser
import numpy as np
import pytest
import torch
from PIL import Image
from spatialavatar0.camera import Camera
from spatialavatar0.core import UserError
from spatialavatar0.drive import web
from spatialavatar0.drive.presets import preset
from spatialavatar0.drive.video import head_camera
from spatialavatar0.head.model import open_head, toy_head
from spatialavatar0.head.uv import UVLayout
from spatialavatar0.splat.avatar import Avatar

needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


def mottled(head, size, seed=0):
    "An avatar whose Gaussians differ in everything; some are far away, invisible or behind the camera"
    g = torch.Generator().manual_seed(seed)
    noise = lambda *n: torch.randn(*n, generator=g)
    avatar = Avatar.rest(head, UVLayout(head, size), shape=.5*noise(head.n_shape).clamp(-1, 1))
    s, N = avatar.gaussians, len(avatar.gaussians)
    place = avatar.pose(avatar.codes()).xyz
    away = torch.where(torch.rand(N, 1, generator=g) < .05, 3., .3)
    colour = (.5 + .3*torch.sin(60*place + torch.tensor([0., 1, 2])) + .1*noise(N, 3)).clamp(0, 1)
    opacity = torch.where(torch.rand(N, generator=g) < .02, -7., s.opacity_logit + noise(N))
    return replace(avatar, gaussians=replace(s, xyz=s.xyz + away*noise(N, 3), quaternion=s.quaternion + .2*noise(N, 4),
                                             log_scale=s.log_scale + .3*noise(N, 3), colour=colour, opacity_logit=opacity))


def decibel(a, b): return float(-10*(a - b).square().mean().log10())


def as_script(camera):
    "A camera, as the viewer wants it"
    K = camera.K
    return json.dumps(dict(width=camera.width, height=camera.height, R=camera.R.flatten().tolist(), t=camera.t.tolist(),
                           focal=[float(K[0, 0]), float(K[1, 1])], centre=[float(K[0, 2]), float(K[1, 2])]))


def pixels(page, camera, background='[1,1,1,1]'):
    "What the canvas shows (H,W,4)"
    text = page.run(f'''(p => {{
        let s = "";
        for (let i = 0; i < p.length; i += 8192) s += String.fromCharCode(...p.subarray(i, i + 8192));
        return btoa(s);
    }})(viewer.pixels({as_script(camera)}, {background}))''')
    raw = np.frombuffer(base64.b64decode(text), np.uint8).reshape(camera.height, camera.width, 4)
    return torch.from_numpy(raw.astype(np.float32)/255)


def put(page, values): page.run(f'viewer.values = {json.dumps(values)}; viewer.changed("values")')


def drawn(avatar, codes, camera):
    with torch.no_grad(): return avatar.render(codes, camera, torch.ones(3))[0].clamp(0, 1)


def screen(page, box=(0, 0, 570, 600)):
    "What is on the screen, without the panel"
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert('RGB').crop(box)).astype(float)


@pytest.fixture(scope='module')
def avatar(): return mottled(open_head(), 112)


@pytest.fixture(scope='module')
def page(avatar, tmp_path_factory):
    file = web.export_html(avatar, tmp_path_factory.mktemp('web')/'avatar.html', title='Ann')
    with browser.Page(900, 600) as page:
        page.open(file.as_uri())
        yield page
        assert not page.errors()


@pytest.fixture
def fresh(page):
    page.run('viewer.reset()')
    return page


FACES = {
    'rest': {}, 'smile': {'mouthSmileLeft': .8, 'mouthSmileRight': .7, 'cheekSquintLeft': .5},
    'shut jaw': {'jawOpen': .7, 'mouthClose': .6},  # which has a corrective of its own
    'look': {'yaw': 18., 'pitch': -9., 'roll': 7., 'gaze_yaw': -14., 'gaze_pitch': 6., 'eyeLookOutLeft': .5},
    'tongue': {'jawOpen': 1., 'tongueOut': 1., 'eyeBlinkRight': 1., 'browInnerUp': 1.}}


@needs_browser
@pytest.mark.parametrize('name', FACES)
def test_pixels_are_those_of_render(fresh, avatar, name):
    "At the same pose and camera; what is lost is the bytes' rounding, and that of blending in 8 bits"
    camera = head_camera(avatar, 256, 256, yaw=20. if name == 'rest' else -35., pitch=10.)
    put(fresh, FACES[name])
    want = drawn(avatar, web.pull(avatar, FACES[name]), camera)
    assert decibel(pixels(fresh, camera)[..., :3], want) > 45
    assert decibel(want, drawn(avatar, avatar.codes(), camera)) < 40 or name == 'rest'  # it would be seen


@needs_browser
def test_pixels_of_any_camera(fresh, avatar):
    "Oblong, its middle elsewhere, and so near that part of the head is behind it"
    far = head_camera(avatar, 300, 200, yaw=50.).crop(-20., 15., 210, 260)
    near = Camera.look_at(torch.tensor([.02, .0, .13]), torch.tensor([0., 0., 0.]), fov=60., width=240, height=200)
    for camera in (far, near):
        assert decibel(pixels(fresh, camera)[..., :3], drawn(avatar, avatar.codes(), camera)) > 40


@needs_browser
def test_alpha(fresh, avatar):
    camera = head_camera(avatar, 200, 200)
    with torch.no_grad(): image, alpha = avatar.render(avatar.codes(), camera)
    got = pixels(fresh, camera, '[0,0,0,0]')
    assert decibel(got[..., 3], alpha) > 40 and decibel(got[..., :3], image.clamp(0, 1)) > 40  # premultiplied


@needs_browser
@pytest.mark.parametrize('name', ['talk', 'nod'])
def test_motion_is_that_of_drive(fresh, avatar, name):
    motion = web.movements()[name]
    k = int((motion.neck.norm(dim=-1) + motion.jaw.norm(dim=-1)).argmax())  # where there is something to see
    camera = head_camera(avatar, 200, 200)
    fresh.run(f'viewer.play("{name}"); viewer.hold = {k}/{motion.fps}')
    got = pixels(fresh, camera)[..., :3]
    fresh.run('viewer.hold = null')
    codes = motion.codes(avatar)[k]
    assert decibel(got, drawn(avatar, codes, camera)) > 45
    assert decibel(got, drawn(avatar, avatar.codes(), camera)) < 40


@needs_browser
def test_slider_by_keyboard(fresh):
    "With the keyboard alone: the picture, the slider's text, and the line of status change"
    before = screen(fresh)
    fresh.run('document.querySelector("[data-name=jawOpen]").focus()')
    for _ in range(60): fresh.key('ArrowRight')
    fresh.wait('viewer.status.textContent.includes("open")')
    assert fresh.run('[viewer.values.jawOpen, document.activeElement.getAttribute("aria-valuetext")]') == [.6, '60 %']
    assert np.abs(screen(fresh) - before).mean() > .3
    fresh.run('''document.querySelectorAll("details").forEach(d => d.open = true);
        document.querySelector("[data-name=eyeBlinkLeft]").focus()''')
    fresh.key('End')
    assert fresh.run('[viewer.values.eyeBlinkLeft, viewer.values.eyeBlinkRight]') == [1, 1]  # they are coupled


@needs_browser
def test_orbit_by_keys_mouse_and_touch(fresh):
    view = lambda: fresh.run('[viewer.orbit.yaw, viewer.orbit.pitch, viewer.orbit.distance]')
    fresh.run('viewer.canvas.focus()')
    for key in ('ArrowRight', 'ArrowRight', 'ArrowUp', '+'): fresh.key(key)
    yaw, pitch, distance = view()
    assert (yaw, pitch) == (10, 5)
    fresh.drag((200, 300), (180, 300), (140, 300), (140, 300))
    assert view()[0] > yaw + 5 and view()[1] == pitch and view()[2] == distance
    before = view()
    fresh.send('Emulation.setTouchEmulationEnabled', enabled=True)
    fresh.touch([(250, 300), (350, 300)], [(230, 300), (370, 300)], [(200, 300), (400, 300)])
    assert view()[2] < .8*before[2] and view()[:2] == before[:2]
    fresh.send('Emulation.setTouchEmulationEnabled', enabled=False)
    fresh.run('viewer.canvas.focus()'); fresh.key('0')
    assert view()[:2] == [0, 0]


@needs_browser
def test_orbit_is_that_of_camera(fresh, avatar):
    "The picture that the page opens with is the one of `head_camera`"
    fresh.run('viewer.orbit.turn(30, 12)')
    got = fresh.run('(c => [c.R, c.t, c.focal])(viewer.orbit.camera(512, 512))')
    want = head_camera(avatar, 512, 512)
    view = web.view_of(avatar)
    again = Camera.look_at(torch.tensor(view['target']) + view['distance']*torch.tensor(
        [.5*np.cos(np.deg2rad(12)), np.sin(np.deg2rad(12)), np.sqrt(.75)*np.cos(np.deg2rad(12))]).float(),
        torch.tensor(view['target']), fov=view['fov'])
    torch.testing.assert_close(torch.tensor(got[0]).view(3, 3), again.R, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(got[1]), again.t, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(got[2]), again.K.diagonal()[:2], atol=1e-2, rtol=0)
    fresh.run('viewer.orbit.reset()')
    torch.testing.assert_close(torch.tensor(fresh.run('viewer.orbit.camera(512, 512).t')), want.t, atol=1e-5, rtol=0)


@needs_browser
def test_buttons(fresh):
    fresh.run('document.querySelector("[data-play=blink]").click()')
    assert fresh.run('[viewer.playing, document.querySelector("[data-play=blink]").ariaPressed]') == ['blink', 'true']
    fresh.run('document.querySelector("[data-play=blink]").click()')
    assert fresh.run('[viewer.playing, document.querySelector("[data-play=blink]").ariaPressed]') == [None, 'false']
    fresh.run('[...document.querySelectorAll("button")].find(b => b.textContent === "Joy").click()')
    assert fresh.run('[viewer.values.mouthSmileLeft, viewer.values.pitch, viewer.playing]') == [.95, 2, None]
    assert fresh.run('document.querySelector("[data-name=mouthSmileLeft]").value') == '0.95'
    fresh.run('document.querySelector("[aria-label=\'Green background\']").click()')
    fresh.wait('viewer.status.textContent')
    assert np.abs(screen(fresh, (20, 20, 22, 22)) - (0, 177, 64)).max() < 2
    fresh.run('viewer.setBackground(null)')


@needs_browser
def test_picture_and_film(fresh):
    "What the buttons save: a PNG with its background, a film of more than one frame"
    url = '(b => new Promise(f => { const r = new FileReader(); r.onload = () => f(r.result); r.readAsDataURL(b); }))'
    fresh.run('viewer.setBackground("#00b140")')
    data = fresh.run(f'viewer.picture().then({url})')
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(',')[1]))).convert('RGB'))
    assert picture.shape[:2] == (600, 596) and np.abs(picture[5, 5] - np.array([0, 177, 64.])).max() < 2
    fresh.run('''globalThis.film = new Promise(f => { viewer.download = (blob, name) => f([blob.size, blob.type, name]); });
        viewer.play("nod"); viewer.record();
        globalThis.steps = 0;
        (function step() { steps++; requestAnimationFrame(step); })()''')
    time.sleep(1.)
    fresh.wait('steps > 12')  # a machine with much to do draws few in a second
    fresh.run('viewer.record()')
    size, kind, name = fresh.run('film')
    assert size > 3000 and kind.startswith('video/') and name == f'avatar.{kind[6:]}'
    fresh.run('delete viewer.download; viewer.setBackground(null)')


@needs_browser
def test_everything_has_a_name(page):
    "For those who hear the page; and nothing was fetched"
    tree = page.send('Accessibility.getFullAXTree')['nodes']
    roles = {'slider', 'button', 'radio', 'checkbox', 'img'}
    found = [n for n in tree if n.get('role', {}).get('value') in roles and not n.get('ignored')]
    assert len(found) > 20 and all(n['name']['value'] for n in found)
    assert not [u for u in page.requests() if not u.startswith(('file:', 'data:', 'blob:'))]


@needs_browser
def test_context_comes_back(fresh, avatar):
    "A phone takes the graphics away when it is short of memory"
    camera = head_camera(avatar, 128, 128)
    before = pixels(fresh, camera)
    fresh.run('''new Promise(done => { const x = viewer.gl.getExtension("WEBGL_lose_context");
        viewer.canvas.addEventListener("webglcontextrestored", () => setTimeout(done, 50), {once: true});
        x.loseContext(); setTimeout(() => x.restoreContext(), 50); })''')
    assert torch.equal(pixels(fresh, camera), before)


@needs_browser
def test_in_an_iframe(avatar, tmp_path):
    "Sandboxed, as notebooks and blogs show it; and a head with pose correctives, and expressions without names"
    egg = mottled(toy_head(), 40)
    inner = web.export_html(egg, tmp_path/'egg.html', controls=True).read_text(encoding='utf-8')
    srcdoc = inner.replace('&', '&amp;').replace('"', '&quot;')
    (tmp_path/'outer.html').write_text(f'<iframe sandbox="allow-scripts" width=500 height=400 srcdoc="{srcdoc}"></iframe>')
    with browser.Page(600, 500) as page:
        page.open((tmp_path/'outer.html').as_uri(), 'true')
        page.wait('document.readyState === "complete"')
        shown = lambda: np.ptp(screen(page, (20, 20, 200, 200)), axis=-1).max() > 60  # colours: the wall is grey
        assert any(shown() or page.run('new Promise(f => setTimeout(f, 200))') for _ in range(100))
        page.open((tmp_path/'egg.html').as_uri())
        camera = head_camera(egg, 160, 160, yaw=25.)
        base = egg.codes()
        values = {'expression_0': 1.5, 'yaw': 20.}
        put(page, values)
        assert decibel(pixels(page, camera)[..., :3], drawn(egg, web.pull(egg, values, base), camera)) > 42
        assert not page.errors()


@needs_browser
def test_rest_is_kept(avatar, tmp_path):
    "Movements are added to the rest that was given"
    base = web.pull(avatar, {'mouthSmileLeft': .7, 'yaw': 25., 'jawOpen': .3})
    base = base.replace(pose=base.pose + torch.tensor([.1, -.2, .05, 0, 0, 0]), translation=torch.tensor([.01, .02, -.03]))
    file = web.export_html(avatar, tmp_path/'a.html', base=base, controls=False)
    with browser.Page(300, 300) as page:
        page.open(file.as_uri())
        camera, values = head_camera(avatar, 200, 200, codes=base), {'jawOpen': .5, 'pitch': 12., 'gaze_yaw': 10.}
        put(page, values)
        assert decibel(pixels(page, camera)[..., :3], drawn(avatar, web.pull(avatar, values, base), camera)) > 45
        assert page.run('document.querySelectorAll(".sav-panel").length') == 0
        took = sorted(page.run('viewer.measure(60)'))[30]
    print(f'posing and sorting {len(avatar.gaussians)} Gaussians: {took:.2f} ms')


@pytest.mark.parametrize('size', [40, 112])
def test_round_trip(size):
    "Every number within half a step; indices exactly"
    avatar = mottled(open_head(), size, seed=size)
    header, arrays = web.unpack(web.pack(avatar, motions={'talk': preset('speech')}))
    g = avatar.gaussians
    q = torch.nn.functional.normalize(g.quaternion, dim=-1)
    want = dict(xyz=g.xyz, quaternion=q*torch.where(q[:, :1] < 0, -1, 1), log_scale=g.log_scale, colour=g.colour,
                opacity=g.opacity[:, None], weights=avatar.head.weights)
    for name, x in want.items():
        step = np.array(header['arrays'][name]['step'])
        assert (np.abs(arrays[name] - x.numpy()) <= step/2 + 1e-5).all(), name
    assert (arrays['triangle'] == avatar.layout.triangle.numpy()).all()
    assert (arrays['faces'] == avatar.head.faces.numpy()).all()
    assert header['motions']['talk']['frames'] == len(arrays['motion talk']) == 100


def test_size_of_a_page(tmp_path):
    "12 MB are allowed for 58 thousand Gaussians; and what it loses"
    avatar = mottled(open_head(), 256)
    assert len(avatar.gaussians) > 58_000
    path = web.export_html(avatar, tmp_path/'avatar.html')
    assert path.stat().st_size < 4_000_000
    camera = head_camera(avatar, 256, 256)
    seen = web.restore(web.pack(avatar), avatar)
    assert decibel(drawn(seen, seen.codes(), camera), drawn(avatar, avatar.codes(), camera)) > 50


def test_damaged_bytes_and_names(avatar, tmp_path):
    with pytest.raises(ValueError, match='data: got'): web.unpack(b'nonsense')
    with pytest.raises(UserError, match='end the name in .html'): web.export_html(avatar, tmp_path/'a.txt')
    with pytest.raises(UserError, match='the folder does not exist'): web.export_html(avatar, tmp_path/'no'/'a.html')
    assert not list(tmp_path.iterdir())
