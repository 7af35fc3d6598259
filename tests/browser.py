"A headless Chromium, driven over its DevTools protocol"
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'
FLAGS = ['--headless=new', '--no-sandbox', '--remote-debugging-port=0', '--disable-dev-shm-usage', '--mute-audio',
         '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--hide-scrollbars',
         '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run',
         '--no-default-browser-check', '--disable-extensions', '--force-color-profile=srgb', '--no-proxy-server']


def find():
    "The browser's program, or None"
    return os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)


def missing():
    "What a test in a browser lacks here, or nothing"
    if find() is None: return 'there is no Chromium: install one, or name it in CHROMIUM'
    return '' if find_spec('websocket') else 'websocket-client is not installed'


class Page:
    "A page in a browser of its own; `with Page() as page: ...`"
    def __init__(self, width=900, height=600, scale=1, touch=False, flags=()):
        self.flags = flags  # more of the browser's
        self.size = dict(width=width, height=height, deviceScaleFactor=scale, mobile=touch)

    def __enter__(self):
        import websocket
        self.profile = tempfile.mkdtemp()
        self.browser = subprocess.Popen([find(), *FLAGS, *self.flags, f'--user-data-dir={self.profile}', 'about:blank'],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            port = self._port()
            pages = json.load(build_opener(ProxyHandler({})).open(f'http://127.0.0.1:{port}/json'))
            url = next(p['webSocketDebuggerUrl'] for p in pages if p['type'] == 'page')
            self.socket = websocket.create_connection(url, timeout=90, suppress_origin=True,
                                                      http_no_proxy=['127.0.0.1'])
        except BaseException:
            self.__exit__()
            raise
        self.ids, self.events = count(1), []
        for domain in ('Page', 'Runtime', 'Network', 'Log'): self.send(f'{domain}.enable')
        self.send('Emulation.setDeviceMetricsOverride', **self.size)
        return self

    def __exit__(self, *_):
        if hasattr(self, 'socket'): self.socket.close()
        self.browser.terminate()
        try: self.browser.wait(10)
        except subprocess.TimeoutExpired: self.browser.kill()
        shutil.rmtree(self.profile, ignore_errors=True)

    def _port(self):
        file, end = Path(self.profile)/'DevToolsActivePort', time.time() + 60
        while time.time() < end and self.browser.poll() is None:
            if file.exists() and (text := file.read_text()).count('\n'): return text.split('\n')[0]
            time.sleep(.05)
        raise RuntimeError('the browser did not start')

    def send(self, method, seconds=90, **params):
        "A command, and its result; what the page reports meanwhile goes to `events`"
        number, end = next(self.ids), time.time() + seconds
        self.socket.send(json.dumps(dict(id=number, method=method, params=params)))
        while (message := json.loads(self.socket.recv())).get('id') != number:
            if 'method' in message: self.events.append(message)
            if time.time() > end: raise TimeoutError(f'{method}: {str(params)[:300]}')
        if 'error' in message: raise RuntimeError(f"{method}: {message['error']}")
        return message['result']

    def run(self, script):
        "What an expression of JavaScript, or a promise, comes to"
        result = self.send('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        if bad := result.get('exceptionDetails'): raise RuntimeError(json.dumps(bad)[:3000])
        return result['result'].get('value')

    def open(self, url, until='globalThis.viewer && viewer.drawn', seconds=60):
        self.send('Page.navigate', url=url)
        return self.wait(until, seconds)

    def wait(self, script, seconds=60):
        "Until it is true"
        end = time.time() + seconds
        while time.time() < end:
            if found := self.run(script): return found
            time.sleep(.05)
        raise TimeoutError(f'{script}; {self.errors()[-3:]}')

    def errors(self):
        "What the page complained of"
        kinds = 'Runtime.exceptionThrown', 'Log.entryAdded', 'Runtime.consoleAPICalled'
        return [json.dumps(e['params'])[:500] for e in self.events if e['method'] in kinds]

    def requests(self):
        "Addresses of everything that was asked for"
        return [e['params']['request']['url'] for e in self.events if e['method'] == 'Network.requestWillBeSent']

    def key(self, key, code=None):
        for kind in ('keyDown', 'keyUp'):
            self.send('Input.dispatchKeyEvent', type=kind, key=key, code=code or key,
                      windowsVirtualKeyCode={'ArrowLeft': 37, 'ArrowUp': 38, 'ArrowRight': 39, 'ArrowDown': 40,
                                             'End': 35, 'Home': 36, 'Tab': 9}.get(key, ord(key[0].upper())))

    def drag(self, *points):
        "The mouse from point to point, with the left button down"
        kinds = ['mousePressed', *['mouseMoved']*(len(points) - 2), 'mouseReleased']
        for kind, (x, y) in zip(kinds, points):
            self.send('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', buttons=1, clickCount=1)

    def touch(self, *places):
        "Fingers from place to place; each place is a list of points, one for each finger"
        for i, points in enumerate(places):
            self.send('Input.dispatchTouchEvent', type='touchMove' if i else 'touchStart',
                      touchPoints=[dict(x=x, y=y, id=k) for k, (x, y) in enumerate(points)])
        self.send('Input.dispatchTouchEvent', type='touchEnd', touchPoints=[])

    def screenshot(self, path=None):
        "What the screen shows, as PNG"
        data = base64.b64decode(self.send('Page.captureScreenshot', format='png')['data'])
        if path: Path(path).write_bytes(data)
        return data
