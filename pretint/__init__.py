"""Pretint from Python: ``import pretint``, then ``pretint.pretrain(run, settings)``; one function for each command.

``__init__.pyi`` lists its names. They are imported at first use, because torch and timm take seconds to import. The
building blocks are in ``pretext``, ``transfer``, ``slurm``, ``pretint.colorization`` and ``pretint.study``.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "pretext.pretrain": ["pretrain"],
    "pretext.recipe": ["PretrainSettings"],
    "pretext.data.source": ["DataSettings"],
    "pretext.pretrained": ["load_pretrained"],
    "pretext.data.pack": ["PackSettings", "pack"],
    "pretext.weights.exporter": ["ExportSettings", "export"],
    "pretext.weights.importer": ["import_weights"],
    "transfer.compare": ["CompareSettings", "compare", "compare_paths"],
    "transfer.embed": ["EmbedSettings", "embed", "embed_dataset"],
    "transfer.embedding_files": ["read_embeddings"],
    "transfer.predict": ["PredictSettings", "predict"],
    "transfer.explore": ["ExploreSettings", "explore"],
    "transfer.finetune": ["finetune"],
    "transfer.probes.knn": ["KnnSettings", "knn"],
    "transfer.probes.linear": ["ProbeSettings", "probe"],
    "transfer.probes.svm": ["SvmSettings", "svm"],
    "transfer.report": ["write_report"],
    "transfer.results": ["find_results"],
    "transfer.tasks.registry": ["ClassifySettings", "DetectSettings", "SegmentSettings"],
    "pretint.result_table": ["results"],
    "pretint.colorization.job": ["ColorizeSettings", "colorize"],
    "pretint.colorization.scores.job": ["ScoreSettings", "score"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pretint' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
