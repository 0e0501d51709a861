"""From an exception to the one or two sentences that help."""

import difflib
import errno
import re
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from chrysalis.system.errors import UserError
from chrysalis.system.files import shown

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# keys of the folder that is written into, and what they are relative to
OUTPUT = {"out": "", "name": "runs", "resume": "", "hydra.run.dir": "", "hydra.sweep.dir": ""}


def sentence(error: BaseException, config_name: str, conf: Path) -> str | None:
    """What to tell the user, or None if the error is not theirs."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
    for link in chain:
        if isinstance(link, MissingConfigException):
            return _unknown_option(link)
        if isinstance(link, OverrideParseException):
            return f"{link.override!r} is not of the form key=value: {str(link).splitlines()[0].rstrip('.')}."
        if isinstance(link, MissingMandatoryValue):
            named = re.search(r"[Mm]issing mandatory value: (\S+)", str(link))
            key = link.full_key or (named.group(1) if named else "a key")
            return f"{key} is missing: give it as {key}=VALUE."
    if "Config group override must be a string or a list" in str(error):
        return "A group of the configuration was set to null or a number: give one of its options; guidance can be []."
    if isinstance(error, ConfigCompositionException):
        return _unknown_key(error, config_name, conf)
    if isinstance(error, InstantiationException):
        where = re.search(r"full_key: (\S+)", str(error))
        key = where.group(1) if where else "The configuration"
        return f"{key} cannot be used: {_first_line(error.__cause__ or error)}"
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key or 'The configuration'}: {_first_line(error)}"
    if "torch._inductor" in sys.modules:  # only a program that compiles can fail to
        from chrysalis.system.compiling import why_not_compiled

        if told := why_not_compiled(error):
            return str(told)
    if any(isinstance(link, OSError) and link.errno in FULL for link in chain):
        again = "A run continues with resume=runs/NAME" if config_name == "train" else "The same command continues"
        return f"The disk is full, or a limit of it is reached: make room. {again}."
    if isinstance(error, OSError) and error.filename:
        return _unusable(error)
    return None


def _unusable(error: OSError) -> str:
    """A file that cannot be used; where it is the folder that is written into, or lies above it, by the key of that."""
    file = Path(error.filename).absolute()
    there = next(path for path in (file, *file.parents) if path.exists())
    why = f"{error.strerror} in {there}" if there.is_dir() else f"{shown(there)} is a file"
    for key, root in OUTPUT.items():
        for word in (argument for argument in sys.argv[1:] if argument.startswith(f"{key}=")):
            folder = Path(root, _unquoted(word.partition("=")[2])).absolute()
            if file == folder or file in folder.parents:
                other = "name, or give hydra.run.dir=FOLDER" if key == "name" else "folder"
                return f"{word} cannot be used: {why}. Choose another {other}."
    for root, key in (("runs", "hydra.run.dir"), ("samples", "out")):
        if Path(root).absolute() in (file, file.parent):
            return f"{root}/ cannot be written into: {why}. Give {key}=FOLDER."
    return f"{error.filename} cannot be used: {error.strerror}."


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] + text[-1] in ('""', "''") else text


def _chain(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _unknown_option(error: MissingConfigException) -> str:
    """data=foldr: the group has no such leaf."""
    if typed := _file_as_option():
        group, file = typed
        return (
            f"{group}={file} is a file, and an option is a name: put it at FOLDER/{group}/{file.name} and give "
            f"--config-dir FOLDER {group}={file.stem}."
        )
    group, _, asked = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if not group or not options:
        return _first_line(error)
    near = difflib.get_close_matches(asked, options, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{group}={asked} is unknown.{hint} Choose one of {', '.join(options)}."


def _file_as_option() -> tuple[str, Path] | None:
    """(group, file) of experiment=folder/mine.yaml on the command line, None if there is none like it."""
    pairs = [argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument]
    return next(((key.lstrip("+"), Path(v)) for key, v in pairs if "." not in key and v.endswith(".yaml")), None)


def _unknown_key(error: ConfigCompositionException, config_name: str, conf: Path) -> str:
    """data.imge_size=64, scheduler=ddim: the configuration has no such key or group, or not with such a value."""
    found = re.search(r"Could not (?:override|append to|delete)[^']*'([^']+)'", str(error))
    found = found or re.match(r"Error merging override \+*([^=]+)=", str(error))
    key = found.group(1) if found else ""
    why = _first_line(error.__cause__ or error).rstrip(".")
    if key and ("is not in struct" in why or "No match in the defaults list" in str(error)):
        group, _, rest = key.partition(".")
        leaf = rest.split(".")[0]
        known = _known_keys(config_name, conf)
        if (conf / group / f"{leaf}.yaml").is_file() and f"{group}.{leaf}" not in known:
            return f"{key} has no meaning yet: choose {group}={leaf} too."
        if options := _options_with(conf / group, rest):
            return f"{key} has no meaning yet: choose {' or '.join(f'{group}={each}' for each in options)} too."
        near = _nearest(key, known)
        hint = f" Did you mean {near}?" if near and not f"{key}.".startswith(f"{near}.") else ""
        return f"{key} is not a known key.{hint} --help shows the keys that people change, --cfg job all of them."
    if why.startswith("Cannot merge"):
        why = "it must be a list, or keys, as `--cfg job` shows it"
    return f"{key or 'The command line'} cannot be used: {why}."


def _options_with(group: Path, name: str) -> list[str]:
    """The files of a group that have this key at their root."""
    if not name or not group.is_dir():
        return []
    texts = {file.stem: file.read_text(encoding="utf-8") for file in sorted(group.glob("*.yaml"))}
    own = re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    elsewhere = re.compile(rf"^# @package (?!{group.name}$)", re.MULTILINE)
    return [stem for stem, text in texts.items() if own.search(text) and not elsewhere.search(text)]


def _nearest(key: str, known: list[str]) -> str | None:
    last = key.split(".")[-1]
    same_name = [k for k in known if k.split(".")[-1] == last]
    if same_name:
        return max(same_name, key=lambda k: difflib.SequenceMatcher(None, key, k).ratio())
    close = difflib.get_close_matches(key, known, 1, 0.75)
    if close:
        return close[0]
    by_last = {k.split(".")[-1]: k for k in known}
    close = difflib.get_close_matches(last, list(by_last), 1, 0.7)
    return by_last[close[0]] if close else None


def composed(config_name: str, conf: Path) -> DictConfig:
    """The configuration with the groups that were chosen on the command line, and no other value of it."""
    pairs = [argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument]
    chosen = [f"{group}={leaf}" for group, leaf in pairs if group and (conf / group / f"{leaf}.yaml").is_file()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose(config_name, chosen)


def _known_keys(config_name: str, conf: Path) -> list[str]:
    cfg = composed(config_name, conf)
    return [key for key in _flat(cfg) if "_target_" not in key and "_partial_" not in key]


def _flat(cfg: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in cfg:
        full = f"{prefix}{key}"
        keys.append(full)
        if not OmegaConf.is_missing(cfg, key) and OmegaConf.is_dict(cfg._get_node(key)):
            keys += _flat(cfg._get_node(key), f"{full}.")
    return keys
