"""A folder for PYTHONPATH: in it Python finds this package under the name `horovod`. See `hpcdl.horovod.alias`."""
