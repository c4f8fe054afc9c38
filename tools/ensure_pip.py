"""Stands in for get-pip.py: takes pip from the interpreter, then installs what is asked for from the package index.

ansible-test runs this in the virtual environments that it makes, so the Python may be an old one.
"""

from __future__ import annotations

import subprocess
import sys

OPTIONS_OF_GET_PIP = ("--no-setuptools", "--no-wheel")

subprocess.check_call([sys.executable, "-m", "ensurepip"], stdout=subprocess.DEVNULL)
requested = [argument for argument in sys.argv[1:] if argument not in OPTIONS_OF_GET_PIP]
sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *requested]))
