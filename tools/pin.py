"""constraints.txt: one tested version of everything that settings.ini asks for, on Python 3.10 to 3.12

uv (`pip install uv`) resolves for all of them at once and keeps what is pinned already, if it still fits; to move a
package, delete its line first. What torch itself pins to the digit, its CUDA libraries, is left to torch."""
import configparser
import itertools
import shlex
import subprocess
from pathlib import Path

from packaging.markers import Marker

root = Path(__file__).parent.parent
head = '# The tested set: pip install -e .[track,train,dev] -c constraints.txt. Made by tools/pin.py.\n'
systems = {'linux': ('posix', 'Linux'), 'darwin': ('posix', 'Darwin'), 'win32': ('nt', 'Windows')}
pythons = '3.10.0', '3.10.13', '3.11.2', '3.11.9', '3.12.0', '3.12.9'
torch_pins = 'nvidia-', 'cuda-', 'triton'


def holds(marker):
    "In how many of the environments that we support a marker is true: of none, of some, of all"
    true = [Marker(marker).evaluate(dict(python_full_version=v, python_version=v.rpartition('.')[0], sys_platform=s,
                                         os_name=systems[s][0], platform_system=systems[s][1]))
            for v, s in itertools.product(pythons, systems)]
    return 'all' if all(true) else 'some' if any(true) else 'none'


def line(pin):
    "A pin without a marker that is always true, or nothing where it is never"
    name, _, marker = (part.strip() for part in pin.partition(';'))
    if name.startswith(torch_pins): return ''
    where = holds(marker) if marker else 'all'
    return {'all': name, 'some': f'{name} ; {marker}', 'none': ''}[where]


if __name__ == '__main__':
    settings = configparser.ConfigParser(delimiters=['=']); settings.read(root/'settings.ini', encoding='utf-8')
    wanted = [w for k, v in settings['DEFAULT'].items() if k.endswith('requirements') for w in shlex.split(v)]
    out = root/'constraints.txt'
    subprocess.run(['uv', 'pip', 'compile', '-', '-o', out, '--universal', '--python-version', '3.10', '--no-annotate',
                    '--no-header', '--no-python-downloads', '--quiet'], input='\n'.join(wanted), text=True, check=True)
    lines = filter(None, (line(pin) for pin in out.read_text().splitlines() if pin[0] != '#'))
    out.write_text(head + '\n'.join(sorted(lines)) + '\n')
