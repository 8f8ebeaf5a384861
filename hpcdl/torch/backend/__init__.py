"""A backend for `torch.distributed` over MPI: ``hpcdl``, registered when `hpcdl.torch` is imported.

registration.py  `init_process_group`, and what makes a plain ``dist.init_process_group("hpcdl")`` work
group.py         the process group: a group of ranks for collectives, another beside it for messages
reductions.py  moves.py  mail.py   what it can do; names and arguments are those of torch.distributed
work.py  hands.py   handles and futures, and the threads that complete them
memory.py  ops.py   tensors as arrays, reduce operations
hooks.py         communication hooks for DistributedDataParallel
barrier.py       a barrier that names who is missing
"""
