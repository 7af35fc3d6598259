"""The avatar that is embedded in the site's pages, nbs/viewer/astronaut.html: python tools/viewer.py

Made from the portrait that scikit-image ships with (Eileen Collins, by NASA, public domain), as `demo` makes it but on a
coarser grid, so that the page stays under 2 MB. To be run again when the viewer, or what makes an avatar, has changed."""
import tempfile
from pathlib import Path

import torch
from skimage import data

from project import nbs


def main():
    import spatialavatar0 as sa
    from spatialavatar0.clip.image import write_image
    from spatialavatar0.drive.web import export_html
    from spatialavatar0.refine.refine import short
    with tempfile.TemporaryDirectory() as folder:
        photo = write_image(Path(folder)/'astronaut.png', torch.from_numpy(data.astronaut()).float()/255)
        clip = sa.track([photo], Path(folder)/'clip')
        avatar = sa.refine(sa.generate(clip, head=clip.head, size=160), clip, short(1000))
        print(avatar, avatar.made.get('create'))
        (nbs/'viewer').mkdir(exist_ok=True)
        print(export_html(avatar, nbs/'viewer/astronaut.html', 'An astronaut', play='demo').stat().st_size/1e6, 'MB')


if __name__ == '__main__': main()
