import json

import pytest
from PIL import Image

from benchmarks import idle, pipeline, scaling, stages, startup, step_work
from configs import toy
from e4e_jax.training import losses


def test_pipeline(tmp_path, capsys):
    path = tmp_path / "result.json"
    pipeline.main(
        ["--workers=0", "--images=8", "--size=32", "--batch=4", "--batches=2", f"--json={path}"]
    )
    result = json.loads(path.read_text())
    assert list(result["images_per_second"]) == ["0"]
    assert all(rate > 0 for rate in result["images_per_second"]["0"])
    assert "32x32" in capsys.readouterr().out


def test_jpegs_are_images_of_the_size(tmp_path):
    mean_bytes = pipeline.write_jpegs(tmp_path, 3, 64)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert mean_bytes == sum(file.stat().st_size for file in files) / 3
    assert all(Image.open(file).size == (64, 64) for file in files)


def test_startup_times_the_import(tmp_path):
    path = tmp_path / "result.json"
    startup.main(["--no-train", "--repeats=1", f"--json={path}"])
    (seconds,) = json.loads(path.read_text())["seconds"]["import e4e_jax"]
    assert 0 < seconds < 60


@pytest.mark.slow
def test_startup_times_the_first_step(tmp_path):
    seconds = startup.first_step_seconds(
        ["--config.batch_size=4", "--config.data.num_validation=4"], tmp_path
    )
    assert seconds > 0


@pytest.mark.slow
def test_idle_share_of_a_short_run(tmp_path, capsys):
    config = toy.get_config()
    config.batch_size = config.validation_batch_size = 4
    config.data.num_validation = 4
    config.log_every = 2
    result = idle.measure(config, 6, tmp_path)
    assert json.loads(json.dumps(result)) == result
    assert result["steps"] == 5
    between = result["between_steps_seconds"]
    assert between["validation"] > 0 and between["picture"] > 0
    assert all(seconds >= 0 for seconds in between.values())
    assert sum(between.values()) < result["loop_seconds"]
    assert 0 < result["training_seconds"] < result["loop_seconds"]
    assert 0 < result["idle_share"] < 1 and result["slowed_share"] < 1
    assert "idle share of the device" in idle.table(result)
    # It was a real run, with all that one leaves.
    assert len(list(tmp_path.glob("pictures/*.png"))) == 1
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "train/loss" in line] == [2, 4, 6]


@pytest.mark.slow
def test_stages_share_one_program(tmp_path, capsys):
    path = tmp_path / "result.json"
    stages.main(["--small", "--case=256x1", "--repeats=2", f"--json={path}"])
    result = json.loads(path.read_text())
    assert result["compilations"] == result["traces"] == 1
    assert [row["open_heads"] for row in result["stages"].values()] == [1, 7, 14, 0]
    assert result["stages"]["stage 13"]["ratio_to_last_stage"] == 1
    assert "no heads" in capsys.readouterr().out


def test_stages_time_no_step_with_the_gradient_penalty():
    options = stages.OPTIONS
    numbers = [stages.step_number(stage) for stage in range(18)]
    assert all(number % options.r1_every for number in numbers)
    reached = [
        losses.progressive_stage(number, options.progressive_start, options.progressive_every, 18)
        for number in numbers
    ]
    assert reached == list(range(18))


def small_step(**changes):
    """A step like that of FFHQ, in round numbers."""
    fields = {
        "flops": 20e12,
        "bytes": 60e9,
        "parameters": 250_000_000,
        "gradient_bytes": 1e9,
        "head_parameters": 220_000_000,
        "backbone_backward": 4e12,
        "small_reductions": 200,
        "state_bytes": 5e9,
        "frozen_bytes": 0.4e9,
        "residual_bytes": 20e9,
    }
    return scaling.Step(**fields | changes)


def test_plan_by_hand():
    step = small_step()
    found = scaling.plan(step, "8xH100", batch=8)
    assert found["compute"] == pytest.approx(20e12 / 989e12)
    assert found["all_reduce"] == pytest.approx(2 * 7 / 8 * 1e9 / 450e9)
    assert found["hidden"] == pytest.approx(found["all_reduce"] * 0.88)
    exposed = found["all_reduce"] - found["hidden"] + found["statistics"]
    assert found["total"] == pytest.approx(max(found["compute"], found["memory"]) + exposed)
    assert found["images_per_second"] == pytest.approx(64 / found["total"])
    assert found["bottleneck"] == "compute"


def test_no_more_is_hidden_than_there_is_work_to_hide_behind():
    found = scaling.plan(small_step(backbone_backward=0.0), "v5e-8", batch=8)
    assert found["hidden"] == 0


def test_slower_devices_are_used_better():
    peak, slow = (scaling.plan(small_step(), "v5p-64", 8, share) for share in (1.0, 0.4))
    assert slow["compute"] == pytest.approx(peak["compute"] / 0.4)
    assert slow["efficiency"] > peak["efficiency"]


def test_devices_until_efficiency_falls():
    assert scaling.devices_until(small_step(small_reductions=10**6), "v5e-8") == 2
    easy = small_step(small_reductions=0, gradient_bytes=1e3)
    assert scaling.devices_until(easy, "v5e-8") is None


@pytest.mark.slow
def test_recomputing_keeps_less_for_the_backward_pass():
    kept = {
        remat: step_work._encoder_and_loss(1, "float32", True, remat)[1]
        for remat in ("none", "encoder", "generator", "all")
    }
    assert kept["encoder"] < kept["none"] and kept["generator"] < kept["none"]
    assert kept["all"] < min(kept["encoder"], kept["generator"])


@pytest.mark.slow
def test_scaling_of_a_small_step(tmp_path, capsys):
    path = tmp_path / "result.json"
    scaling.main(["--small", "--batch=1", f"--json={path}"])
    result = json.loads(path.read_text())
    assert result["step"]["flops"] > 0 and result["step"]["residual_bytes"] > 0
    assert set(result["shares"][0]["slices"]) == {"v5e-8", "v5p-64", "8xH100"}
    assert "| v5e-8 | v5p-64 | 8xH100 |" in capsys.readouterr().out
