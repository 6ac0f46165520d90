import pytest
from made_runs import detections, write_data, write_run


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory):
    """(root, dataset) of a data set of three classes."""
    root = tmp_path_factory.mktemp("data")
    return root, write_data(root, ["cat", "dog", "cow"])


@pytest.fixture(scope="session")
def finished(tmp_path_factory, three_classes):
    """The work directory of a finished run."""
    root, dataset = three_classes
    folder = tmp_path_factory.mktemp("runs") / "first"
    return write_run(folder, root, dataset, detections(dataset))
