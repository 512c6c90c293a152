"""A CloudStack management server that runs on localhost.

It answers the API commands that an import of KVM disks needs, with the real
server's signatures, parameter rules, refusals and asynchronous jobs. An
instance keeps its state in ``D/cloudstack`` and its images in ``D/pool`` and
the directories beside it, so that both survive a restart.
"""
