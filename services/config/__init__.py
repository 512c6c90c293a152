"""The two files a user writes: config.yaml, and specs that name the VMs and where they go.

Loading refuses what it does not understand and reports all problems at once, with line numbers.
The start of a service's process is in `services.config.service_args`.
"""

from services.config.config_model import Config
from services.config.loader import (
    SpecFile,
    default_config_path,
    load_config,
    load_spec_files,
    load_specs,
    parse_config,
    parse_specs,
)
from services.config.problems import ConfigError, Problem
from services.config.resolve import DiskPlacement, ResolvedVm, resolve, resolve_all
from services.config.secret import Secret
from services.config.show import dump_spec, dump_specs, show_config
from services.config.spec_model import NicMapping, VmSpec

__all__ = [
    "Config",
    "ConfigError",
    "DiskPlacement",
    "NicMapping",
    "Problem",
    "ResolvedVm",
    "Secret",
    "SpecFile",
    "VmSpec",
    "default_config_path",
    "dump_spec",
    "dump_specs",
    "load_config",
    "load_spec_files",
    "load_specs",
    "parse_config",
    "parse_specs",
    "resolve",
    "resolve_all",
    "show_config",
]
