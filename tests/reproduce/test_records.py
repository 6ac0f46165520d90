"""What is read of the folder of a job."""

from configs.tables.table import Row, Table
from jaxseg.reproduce import records, results
from jaxseg.training import provenance, workdir
from tests.reproduce import made_runs


def test_an_evaluation_tells_its_environment_and_config(tmp_path):
    place = made_runs.evaluated(tmp_path, "strict", 0, 0.3, 0.4)
    config = made_runs.config(model__test__score=0.2)
    categories = made_runs.source().categories
    workdir.save_evaluation(place, config, categories, run="runs/plain/seed0", step=10)
    made_runs.trained(tmp_path, "plain", 0, 0.31, 0.41)
    rows = (Row("plain", "configs/demo.py"), Row("strict", evaluate="plain"))
    found = results.write(tmp_path, Table("A table", rows, baseline="plain"))
    (environment,) = found["environments"]
    assert environment["runs"] == ["plain/seed0", "strict/seed0"]
    assert environment["commit"] == provenance.commit()
    difference = found["rows"][1]["difference"]
    assert difference["config"]["model.test.score"][1] == 0.2


def test_an_evaluation_without_results_is_unfinished(tmp_path):
    place = tmp_path / "runs" / "strict" / "seed0"
    place.mkdir(parents=True)
    config, categories = made_runs.config(), made_runs.source().categories
    workdir.save_evaluation(place, config, categories, run="x", step=10)
    assert records.read(tmp_path, "strict", 0).status == records.UNFINISHED
