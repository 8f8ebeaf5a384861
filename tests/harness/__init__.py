"""One suite, two ways to run it: ranks as threads of this process, and ranks of a real MPI job.

pytest                              everything; starts mpirun once for the [mpi] items
mpirun -n 4 python -m pytest        the same files inside the ranks

plugin.py       what a test sees: the fixtures `ranks`, `require`, `shared_path`; the marks `outer`, `ways`, `mpi`
in_threads.py   runs a body on n threads           in_mpi.py   runs it on n ranks of the MPI world
outcome.py      how one rank's body ended          parts.py    what is installed here, and HPCDL_REQUIRE
relay.py        outer process: [mpi] items are answered by the job's journal
job.py          outer process: the one mpirun      inside.py   what that mpirun runs on every rank
step.py         inside the ranks: all in step, test by test; merge.py joins their reports
programs.py     programs run as a user runs them   cases.py    a folder of them, whose cases are tests; tell.py how their ranks tell
lab.py          hosts of benchmarks/netlab, for tests (tests/slurm has a cluster in them)
lane.py         the harness's own communicator     watchdog.py a hang ends in every rank's stack
"""
