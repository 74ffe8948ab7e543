"""A corpus of command lines that no run has: each ends in one sentence, exit code 2, soon, and with nothing written.

The kinds were found by trying every setting of every file of conf with a dozen values that are no numbers, too large,
too small or of another form; here is one line of each kind that has fallen once, or could.
"""

import shlex
import time
from pathlib import Path

import pytest

from diffx.commands import train as cli
from diffx.run.folder import RunDir

HUGE = "100000000000000000000000"
CORPUS = f"""
batch_size={HUGE}
batch_size=1.5
batch_size=null
batch_size=[]
max_steps={HUGE}
max_steps=1e3
log_every={HUGE}
max_skipped_steps={HUGE}
sweep_jobs={HUGE}
checkpoint_minutes=1e300
checkpoint_share=0
checkpoint_share=nan
label_dropout=1
ema_decay=1.1
'more_ema_decays=[nan]'
'more_ema_decays={{a: 1}}'
compile=true
seed=[
seed=
=3
==
seed
'seed=${{nope}}'
'seed=${{oc.env:NOPE}}'
++nope=1
+nope.nope=1
runs_dir=
runs_dir=[]
experiment=..
experiment=
resume=/dev/null
resume=[]
'budget={{cpu_hours: 1e300}}'
'budget={{cpu_hours: null}}'
'budget=[1]'
data=../x
data.name=a/b
data.image_size={HUGE}
data.size=17
data.channels=3
data.num_classes=5
data.encoder=abc
data.encoder=''
data.source._target_=os.getcwd
data.source._target_=diffx.data.Nope
backbone.hidden_size=130
backbone.position=abc
backbone.depth=true
backbone.depth=1.5
backbone._target_=os.system
backbone._target_=diffx.sampler.Euler
backbone=uvit_h backbone.depth=4
objective.path=abc
objective._target_=null
objective=edm sampler=edm objective.mean=1e300
objective=edm sampler=edm sampler.sigma_max=1e300
objective=edm sampler=edm sampler.rho=1e300
sampler=dopri5 sampler.rtol=0
sampler=sde sampler.last_step=2
guidance.low=0.8 guidance.high=0.2
guidance.scale=nan
'plugins=[tread]' guidance=routed guidance.start=-1
'plugins=[tread]' guidance=routed guidance.start=5
'plugins=[tread]' guidance=routed guidance.end=99
'plugins=[tread]' guidance=routed guidance.seed=-1
optimizer.lr=1e300
optimizer.lr=true
optimizer.eps=1e300
optimizer.weight_decay=1e300
optimizer=adan optimizer.weight_decay=-1
optimizer.betas=[]
optimizer.betas=''
'optimizer.betas=[a,b]'
+optimizer.params=3
trainer.threads={HUGE}
trainer.gradient_clip_val=1e300
trainer.accelerator=tpu
trainer.precision=tf32
trainer.devices=4000 trainer.accelerator=cpu
trainer.devices=3 trainer.accelerator=cpu
trainer.accumulate=5
eval.first=1e300
eval.first={HUGE}
eval.per_doubling=inf
eval.samples={HUGE}
eval.batch_size={HUGE}
eval.precision=16
eval.metrics=null
eval.metrics._target_=os.getcwd
logger.project=''
logger.name=abc
+plugins.x=1
+plugins.x._target_=os.getcwd
'plugins=[1]'
'plugins=[[repa]]'
'plugins=[repa]' plugins.repa=3
'plugins=[repa]' plugins.repa.encoder=1
'plugins=[repa]' 'plugins.repa.weight={{a: 1}}'
'plugins=[dispersive]' plugins.dispersive.temperature=1e300
'plugins=[mdt]' 'plugins.mdt.mask_ratio=[0.5,0.3]'
+experiment=../x
-m seed=0,0
-m 'seed=range(0,100000000)'
-m 'optimizer.lr=interval(0,1)'
""".split("\n")[1:-1]


class Accepted(BaseException):
    """A run would begin."""


@pytest.fixture(autouse=True)
def no_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(run: RunDir) -> None:
        raise Accepted(run.path)

    def started(*_: object) -> None:
        raise Accepted("processes")

    monkeypatch.setattr(RunDir, "held", held)
    monkeypatch.setattr("diffx.commands.launch.run_ranks", started)
    monkeypatch.setattr("diffx.commands.sweep.processes.run_all", started)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", CORPUS)
def test_a_malformed_line_is_one_sentence_and_writes_nothing(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["diffx", *shlex.split(line)])
    begun = time.process_time()
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    message = capsys.readouterr().err
    assert stopped.value.code == 2, message
    assert message.count("\n") == 1, message
    assert time.process_time() - begun < 10
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["", "trainer.devices=2 trainer.accelerator=cpu", "-m seed=0,1"])
def test_a_line_that_a_run_has_gets_as_far_as_its_beginning(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing here could fail."""
    monkeypatch.setattr("sys.argv", ["diffx", *shlex.split(line)])
    with pytest.raises(Accepted):
        cli.main()
