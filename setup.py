"""What pyproject.toml cannot say: a wheel holds the files of conf/, as ponder/conf."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithConf(build_py):
    """Builds the package, with conf/ and the mark that it has types. A checkout needs neither."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            package = Path(self.build_lib) / "ponder"
            shutil.copytree("conf", package / "conf", dirs_exist_ok=True)
            (package / "py.typed").touch()


setup(cmdclass={"build_py": WithConf})
