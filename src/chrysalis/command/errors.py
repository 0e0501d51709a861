"""Turn exceptions into one or two sentences that say what to do."""

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
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from chrysalis.command import plugins
from chrysalis.command.arguments import value_of
from chrysalis.command.config_tree import as_dict, walk
from chrysalis.system.errors import UserError, causes, did_you_mean, first_line
from chrysalis.system.files import REPOSITORY, shown

CONF = REPOSITORY / "conf"
GROUP_PREFIXES = tuple(f"{path.name}=" for path in CONF.glob("*/"))
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# keys that set the output folder, and what they are relative to
OUTPUT = {"out": "", "name": "runs", "resume": "", "hydra.run.dir": "", "hydra.sweep.dir": ""}


def message(error: BaseException, config_name: str) -> str | None:
    """The message for an error the user can fix; None for any other error."""
    chain = causes(error)
    if own := next((link for link in chain if isinstance(link, UserError)), None):
        return str(own)
    if in_plugin := plugins.message(error):
        return in_plugin
    for link in chain:
        if isinstance(link, MissingConfigException):
            return _unknown_option(link)
        if isinstance(link, OverrideParseException):
            return f"{link.override} cannot be read: give key=value, with punctuation in quotes, as in 'key=\"a (b)\"'."
        if isinstance(link, MissingMandatoryValue):
            key = link.full_key or first_line(link).split()[-1]
            return f"{key} is missing: give it as {key}=VALUE."
    if "Config group override must be a string or a list" in str(error):
        wrong = [a for a in sys.argv[1:] if a.startswith(GROUP_PREFIXES) and not isinstance(value_of(a), str | list)]
        return f"{wrong[0] if wrong else 'A group'} cannot be used: choose an option of the group; guidance can be []."
    if isinstance(error, ConfigCompositionException):
        return _unknown_key(error, config_name)
    if isinstance(error, InstantiationException):
        where, cause = re.search(r"full_key: (\S+)", str(error)), first_line(error.__cause__ or error)
        return f"{where[1] if where else 'The configuration'} cannot be used: {cause}. Correct it."
    if isinstance(error, OmegaConfBaseException):
        key = error.full_key
        if key and key.startswith("hydra."):  # of a folder's name, which contains what was given for another key
            key = next((word.partition("=")[0] for word in sys.argv[1:] if "${" in word), key)
        return f"{key or 'The configuration'} cannot be used: {first_line(error)}. Correct it."
    if "torch._inductor" in sys.modules:  # only a program that compiles can fail to
        from chrysalis.system.compiling import why_not_compiled

        if not_compiled := why_not_compiled(error):
            return str(not_compiled)
    if "chrysalis.training.out_of_memory" in sys.modules:  # sampling halves its batches itself
        from chrysalis.system import memory
        from chrysalis.training.out_of_memory import MEMORY_ADVICE

        if memory.ran_out(error):
            return f"Out of memory: {MEMORY_ADVICE}"
    if any(isinstance(link, OSError) and link.errno in DISK_FULL for link in chain):
        again = "Then resume=runs/NAME continues" if config_name == "train" else "Then the same command continues"
        return f"The disk is full, or a quota is reached: make room. {again}."
    return _unusable(error) if isinstance(error, OSError) and error.filename else None


def _unusable(error: OSError) -> str:
    """The message for a file that cannot be used; it names the key that set the output folder if that is the cause."""
    file = Path(error.filename).absolute()
    there = next(path for path in (file, *file.parents) if path.exists())
    why = f"{error.strerror} in {there}" if there.is_dir() else f"{shown(there)} is a file"
    for word in sys.argv[1:]:
        if (key := word.partition("=")[0]) in OUTPUT:
            folder = Path(OUTPUT[key], str(value_of(word))).absolute()
            if file == folder or file in folder.parents:
                other = "name, or give hydra.run.dir=FOLDER" if key == "name" else "folder"
                return f"{word} cannot be used: {why}. Choose another {other}."
    for root, key in (("runs", "hydra.run.dir"), ("samples", "out")):
        if Path(root).absolute() in (file, file.parent):
            return f"{root}/ cannot be written into: {why}. Give {key}=FOLDER."
    return f"{error.filename} cannot be used ({error.strerror}): correct the path, or its permissions."


def _unknown_option(error: MissingConfigException) -> str:
    """The message for data=foldr: the group has no such option."""
    for argument in sys.argv[1:]:
        group, _, file = argument.lstrip("+").partition("=")
        if file.endswith(".yaml") and "." not in group:
            return (
                f"{group}={file} is a file, and an option is a name: put it at FOLDER/{group}/{Path(file).name} and "
                f"give --config-dir FOLDER {group}={Path(file).stem}."
            )
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if not group or not options:
        return f"{first_line(error)}."
    hint = did_you_mean(difflib.get_close_matches(option, options, 1))
    return f"{group}={option} is unknown{hint} Choose one of {', '.join(options)}."


def _unknown_key(error: ConfigCompositionException, config_name: str) -> str:
    """The message for data.imge_size=64 or train.py scheduler=ddim: there is no such key, or not with such a value."""
    found = re.search(r"Could not (?:override|append to|delete)[^']*'([^']+)'", str(error))
    found = found or re.match(r"(?:Error merging override |Ambiguous value for argument ')\+*([^=]+)=", str(error))
    key = found[1] if found else ""
    why = first_line(error.__cause__ or error)
    if key and ("is not in struct" in why or "No match in the defaults list" in str(error)):
        group, _, rest = key.partition(".")
        option = rest.split(".")[0]
        known = [k for k, _ in walk(as_dict(composed(config_name), resolve=False)) if not re.search(r"\[|\._", k)]
        if (CONF / group / f"{option}.yaml").is_file() and f"{group}.{option}" not in known:
            return f"{key} needs {group}={option}: add it to the command."
        if options := _options_with(CONF / group, rest):
            return f"{key} needs {' or '.join(f'{group}={each}' for each in options)}: add it to the command."
        hint = did_you_mean([k for k in _nearest(key, known) if not f"{key}.".startswith(f"{k}.")])
        return f"{key} is not a known key{hint} --help shows the keys that people change, --cfg job all of them."
    if why.startswith("Ambiguous value"):
        why = "it has several values. Write a list as [a,b], or add -m to sweep over them"
    if why.startswith("Cannot merge"):
        why = "it must be a list, or keys, as `--cfg job` shows it"
    return f"{key or 'The command line'} cannot be used: {why}."


def _options_with(group: Path, key: str) -> list[str]:
    """The options of a group whose files have this key at their root."""
    texts = {file.stem: file.read_text(encoding="utf-8") for file in sorted(group.glob("*.yaml"))}
    own = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
    elsewhere = re.compile(rf"^# @package (?!{group.name}$)", re.MULTILINE)
    return [stem for stem, text in texts.items() if own.search(text) and not elsewhere.search(text)]


def _nearest(key: str, known: list[str]) -> list[str]:
    """At most one known key: that with the same last part, else a similar spelling, else a similar last part."""
    by_end = {k.split(".")[-1]: k for k in known}
    end = key.split(".")[-1]
    same_end = difflib.get_close_matches(key, [k for k in known if k.split(".")[-1] == end], 1, 0)
    close = same_end or difflib.get_close_matches(key, known, 1, 0.75)
    return close or [by_end[last] for last in difflib.get_close_matches(end, by_end, 1, 0.7)]


def composed(config_name: str) -> DictConfig:
    """The configuration with the options chosen on the command line, and otherwise its defaults."""
    chosen = [a for a in sys.argv[1:] if "=" in a and (CONF / f"{a.replace('=', '/', 1)}.yaml").is_file()]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config_name, chosen)
