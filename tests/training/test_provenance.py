import subprocess
import sys

from jaxseg.training import provenance


def git(folder, *arguments):
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def checkout(folder):
    """A checkout with a committed package, and a file of it."""
    module = folder / "jaxseg" / "training" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    (folder / "notes.txt").write_text("")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "all")
    return module


def test_the_commit_of_the_checkout(tmp_path):
    module = checkout(tmp_path)
    assert provenance.commit(module) == git(tmp_path, "rev-parse", "HEAD")


def test_an_edited_or_added_file_of_the_code_is_told(tmp_path):
    module = checkout(tmp_path)
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("not code")
    assert provenance.commit(module) == head
    module.write_text("edited")
    assert provenance.commit(module) == f"{head}+changes"
    git(tmp_path, "checkout", "-q", "jaxseg")
    assert provenance.commit(module) == head
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text("")
    assert provenance.commit(module) == f"{head}+changes"


def test_no_commit_is_claimed_without_a_checkout(tmp_path, monkeypatch):
    installed = tmp_path / "plain" / "provenance.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert provenance.commit(installed) is None
    foreign = checkout(tmp_path / "project").parent / "site.py"
    foreign.write_text("")  # in someone's checkout, but not of it, like a virtual environment
    assert provenance.commit(foreign) is None
    monkeypatch.setenv("PATH", "")  # no git
    assert provenance.commit() is None


def test_devices_and_versions():
    found = provenance.device()
    assert set(found) == {"platform", "kind", "count", "processes"}
    assert found["count"] >= 1 and found["processes"] == 1
    assert provenance.versions()["python"].split(".")[:2] == list(map(str, sys.version_info[:2]))
