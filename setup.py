"Package metadata: everything is read from `settings.ini`"
import shlex
from configparser import ConfigParser

from setuptools import find_packages, setup

cp = ConfigParser(delimiters=['='])
cp.read('settings.ini', encoding='utf-8')
cfg = cp['DEFAULT']
lib = cfg['lib_path']


def words(key):
    "The shell words of a setting"
    return shlex.split(cfg.get(key, ''))


extras = {key.removesuffix('_requirements'): words(key) for key in cfg if key.endswith('_requirements')}
setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
      keywords=cfg['keywords'], author=cfg['author'], author_email=cfg['author_email'],
      license='Apache-2.0', license_files=['LICENSE', 'NOTICE'], url=cfg['git_url'],
      project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
                    'Changes': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
      classifiers=['Development Status :: 4 - Beta', 'Intended Audience :: Science/Research',
                   'Intended Audience :: Developers', 'Topic :: Multimedia :: Graphics :: 3D Modeling'],
      packages=find_packages(include=[lib, lib + '.*']),
      package_data={lib: ['assets/**', 'configs/*.yaml', 'web/**']}, include_package_data=False,
      python_requires='>=' + cfg['min_python'], install_requires=words('requirements'),
      extras_require=extras,
      long_description=open('README.md', encoding='utf-8').read(),
      long_description_content_type='text/markdown',
      entry_points={'console_scripts': words('console_scripts'), 'nbdev': [f'{lib}={lib}._modidx:d']},
      zip_safe=False)
