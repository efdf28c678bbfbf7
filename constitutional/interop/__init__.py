"""Exchange: constitutions and few-shots of other projects' formats, in and out, and our own format written."""

from constitutional.interop.documents import Imported
from constitutional.interop.few_shots import (
    BESIDE,
    FEW_SHOT_FORMATS,
    add_few_shots,
    export_few_shots,
    import_few_shots,
    write_few_shots,
)
from constitutional.interop.formats import FORMATS, Exported, export_constitution, import_constitution
from constitutional.interop.own_yaml import to_yaml
from constitutional.interop.paper import paper_requests
from constitutional.interop.shots import FewShot, LabelledShot

__all__ = [
    "BESIDE",
    "FEW_SHOT_FORMATS",
    "FORMATS",
    "Exported",
    "FewShot",
    "Imported",
    "LabelledShot",
    "add_few_shots",
    "export_constitution",
    "export_few_shots",
    "import_constitution",
    "import_few_shots",
    "paper_requests",
    "to_yaml",
    "write_few_shots",
]
