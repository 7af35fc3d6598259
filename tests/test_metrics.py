"Measures beside the packages they are known from, where these are installed; the protocol on FLAME's codes"
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from spatialavatar0.bench.lpips import BACKBONES, networks
from spatialavatar0.bench.metrics import ms_ssim, psnr_channels, ssim_reflected
from spatialavatar0.bench.splattingavatar import Setting, bench_splattingavatar, converted, table
from spatialavatar0.clip.clip import Clip
from spatialavatar0.clip.synthetic import film, person
from spatialavatar0.core import UserError
from spatialavatar0.head.flame import load_flame
from spatialavatar0.splat.losses import psnr

pytestmark = pytest.mark.filterwarnings('ignore')


def two(size=208, channels=3):
    "Smooth noise, and the same with more noise"
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, size//8, size//8, generator=draw)
    x = torch.nn.functional.interpolate(coarse, size, mode='bilinear')[0].movedim(0, -1)
    return (x + .1*torch.randn(x.shape, generator=draw)).clamp(0, 1), x


def planes(x): return x.movedim(-1, 0)[None]


def test_against_torchmetrics():
    of = pytest.importorskip('torchmetrics.functional.image')
    x, y = two()
    a, b = planes(x), planes(y)
    assert_close(psnr(x, y), of.peak_signal_noise_ratio(a, b, data_range=1.).item())
    each = [of.peak_signal_noise_ratio(a[:, c], b[:, c], data_range=1.).item() for c in range(3)]
    assert_close(psnr_channels(x, y), sum(each)/3)
    theirs = of.structural_similarity_index_measure(a, b, data_range=1., sigma=1.5)
    assert_close(ssim_reflected(x, y), theirs.item(), atol=2e-5, rtol=0)
    theirs = of.multiscale_structural_similarity_index_measure(a, b, data_range=1., sigma=1.5)
    assert_close(ms_ssim(x, y, ssim_reflected), theirs.item(), atol=2e-5, rtol=0)


@pytest.mark.parametrize('name', BACKBONES)
def test_against_lpips(name, tmp_path):
    "With the package's own modules; all weights are random"
    lpips = pytest.importorskip('lpips')
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False).eval()
    for head in theirs.lins: head.model[-1].weight.data.uniform_()
    body = {f'features.{".".join(k.split(".")[2:])}': v for k, v in theirs.state_dict().items()
            if k.startswith('net.slice')}
    torch.save(body, tmp_path/f'{BACKBONES[name].file}-0.pth')
    torch.save({k: v for k, v in theirs.state_dict().items() if k[:3] == 'lin' and k[3].isdigit()},
               tmp_path/f'{name}.pth')
    ours, (x, y) = networks(tmp_path)[name], two(96)
    with torch.no_grad():
        for given, normalize in (('-1..1', True), ('0..1', False)):
            value = theirs(planes(x), planes(y), normalize=normalize).item()
            assert_close(ours(x, y, given), value, rtol=1e-4, atol=1e-6)


@pytest.fixture
def flame(tmp_path):
    "A head in FLAME's files"
    from test_flame import write_flame
    return load_flame(write_flame(tmp_path))


def bench(folder, flame, convert=converted):
    setting = Setting(held_out=2, grid=32, iterations=20)
    return bench_splattingavatar(folder/'data', folder/'out', setting, flame, None, convert)


def sequence(folder):
    "Where SplattingAvatar's configuration looks for it"
    theirs = folder/'data'/'bala'/'bala'/'sequence'
    theirs.parent.mkdir(parents=True)
    return theirs


def test_films_with_the_codes_of_flame(tmp_path, flame):
    "A film of a person, its codes written as those of a head in FLAME's files, converted on the way"
    who = person(0, 128)
    theirs = sequence(tmp_path)
    theirs.mkdir()
    (theirs/'flame_params.json').write_text('{}')

    def recoded():
        for f in film(who, 6, 64):
            shape = torch.cat([f.codes.shape, torch.zeros(flame.n_shape - len(f.codes.shape))])
            yield replace(f, codes=replace(f.codes, shape=shape, head=flame.id))

    def convert(source, out, head):
        assert source == theirs
        Clip.write(recoded(), out, head)

    def never(*_): raise AssertionError('converted twice')

    result = bench(tmp_path, flame, convert)
    assert not result['failed'] and result['rows'][0]['frames'] == 2
    assert 15 < result['rows'][0]['means']['PSNR whole'] < 60
    assert '| bala |' in table(result)
    assert bench(tmp_path, flame, never)['rows'][0]['means'] == result['rows'][0]['means']  # made already


def test_films_as_they_are_published(tmp_path, flame, monkeypatch):
    "A flame_params.json of four frames, by the package's own converter"
    samples = pytest.importorskip('spatialavatar0.clip.samples')
    monkeypatch.setattr('spatialavatar0.clip.imavatar.check_flame', lambda *_: None)  # it counts vertices
    samples.write_imavatar(sequence(tmp_path), flame, 64, 4)
    result = bench(tmp_path, flame)
    assert not result['failed'] and result['rows'][0]['frames'] == 2
    assert result['rows'][0]['holds for']['head'] == flame.id
