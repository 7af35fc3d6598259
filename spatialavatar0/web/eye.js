// The browser's camera, for a kernel that may be far away: small pictures go to it, one at a time.

const SIDE = 320;         // pixels of the longer side of what is sent
const PATIENCE = 2000;    // milliseconds; after them the next picture goes though no answer came

function make(kind, attributes, ...children) {
  const e = Object.assign(document.createElement(kind), attributes);
  e.append(...children);
  return e;
}

function render({model, el}) {
  const button = make('button', {className: 'sav-eye-button', textContent: 'Camera on'});
  const film = make('video', {muted: true, playsInline: true, width: SIDE});
  film.setAttribute('aria-label', 'What the camera sees, as in a mirror');
  const status = make('p', {className: 'sav-eye-status'});
  status.setAttribute('role', 'status');
  const paper = make('canvas'), pen = paper.getContext('2d');
  const node = make('div', {className: 'sav-eye'}, button, film, status);
  node.setAttribute('data-lm-suppress-shortcuts', '');
  el.append(node);
  let stream = null, sent = 0, late = 0, trips = [];

  const jpeg = () => new Promise(done => paper.toBlob(done, 'image/jpeg', .85));

  async function send() {
    clearTimeout(late);
    if (!stream) return;
    if (film.readyState < 2) { late = setTimeout(send, 20); return; }
    const scale = Math.min(SIDE/Math.max(film.videoWidth, film.videoHeight), 1);
    paper.width = Math.round(film.videoWidth*scale);
    paper.height = Math.round(film.videoHeight*scale);
    sent = performance.now();
    pen.drawImage(film, 0, 0, paper.width, paper.height);
    const bytes = await (await jpeg()).arrayBuffer();
    model.send({taken: sent}, undefined, [bytes]);
    late = setTimeout(send, PATIENCE);
  }

  function answered({taken, state}) {
    if (taken !== sent) return;
    trips = [...trips, performance.now() - sent].slice(-30);
    const middle = [...trips].sort((a, b) => a - b)[trips.length >> 1];
    status.textContent = `${state} · ${Math.round(middle)} ms from picture to answer`;
    node.dataset.milliseconds = middle;
    film.requestVideoFrameCallback ? film.requestVideoFrameCallback(send) : requestAnimationFrame(send);
  }

  async function on() {
    status.textContent = 'Asking for the camera …';
    try { stream = await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480, frameRate: 30}}); }
    catch (e) { status.textContent = `The browser gives no camera: ${e.message || e.name}`; return; }
    film.srcObject = stream;
    await film.play();
    button.textContent = 'Camera off';
    send();
  }

  function off() {
    clearTimeout(late);
    stream?.getTracks().forEach(t => t.stop());
    stream = film.srcObject = null;
    button.textContent = 'Camera on';
    status.textContent = '';
  }

  button.onclick = () => stream ? off() : on();
  model.on('msg:custom', answered);
  return () => { off(); model.off('msg:custom', answered); };
}

export default {render};
