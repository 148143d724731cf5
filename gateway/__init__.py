"""A gateway in front of the OpenAI API. README.md in this folder is the map."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("gateway")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0+unknown"
