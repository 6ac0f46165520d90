"""Preparing the splits of a data set, one after another."""

from __future__ import annotations

import os

from rich.console import Console

from jaxseg.data.prepare import (
    catalogue,
    index,
    layout,
    library,
    lock,
    metadata,
    shards,
    split,
)
from jaxseg.data.prepare.options import Options


def prepare(options: Options, console: Console) -> str:
    """Prepares the splits; what is whole already is kept. Returns the folder of the data set.

    Raises:
      ValueError: options without sense; something is missing and `partial` is not set; the annotation file of another
        split; the folder holds another data set, or one that was begun with other files; a damaged shard.
      OSError: a file or folder is not there or cannot be written; another process is writing there.
      ImportError: tensorflow-datasets or array_record is not installed.
    """
    library.tfds(), library.array_record()
    name = _check(options)
    folder = layout.folder(options.data_dir, name)
    names = catalogue.split_names(options.kind, options.splits, options.annotations)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--data_dir={options.data_dir}: {folder} cannot be made ({error.strerror}). Give a folder that can be "
            "written."
        ) from error
    with lock.only_writer(folder):
        _check_folder(folder, name, options.kind)
        shards.remove_unfinished(folder)
        for split_name in names:
            split.prepare(options, folder, name, split_name, console)
        _write_metadata(folder, name, options.kind)
    console.print(f"Written to {folder}", soft_wrap=True)
    return folder


def _check(options: Options) -> str:
    """The data set's name."""
    name = options.name or catalogue.KINDS[options.kind].name
    if not layout.NAME.fullmatch(name):
        raise ValueError(
            f"--name={name!r}: lower-case letters, digits and _ are allowed, the first a letter."
        )
    if "://" in options.data_dir:
        raise ValueError(f"--data_dir={options.data_dir}: mount the bucket and give the folder.")
    if options.shard_mb < 1:
        raise ValueError(f"--shard_mb={options.shard_mb}: a whole number of at least 1 is needed.")
    return name


def _check_folder(folder: str, name: str, kind: str) -> None:
    """Sees to it that the folder holds nothing, or a data set of this kind that we wrote."""
    ours = [file for file in os.listdir(folder) if file.endswith(".plan.json")]
    for file in ours:
        found = index.read_json(os.path.join(folder, file))
        if found["kind"] != kind:
            raise ValueError(
                f"{folder} holds another data set: {found['kind']}, from {found['annotation_file']}. Give another "
                f"--data_dir{' or --name' if kind == 'folder' else ''}."
            )
    others = [file for file in os.listdir(folder) if not file.startswith(".")]
    if others and not ours:
        raise ValueError(
            f"{folder} holds something else ({', '.join(sorted(others)[:3])}, ...), which jaxseg did not write. Give "
            "another --data_dir."
        )


def _write_metadata(folder: str, name: str, kind: str) -> None:
    indices = [index.load(folder, split) for split in layout.splits(folder)]
    metadata.write(folder, name, indices, catalogue.KINDS[kind].extras)
