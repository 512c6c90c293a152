"""The CloudStack agent's errors: one class for each reason.

`refusals` translates CloudStack's error codes and texts to these, `http_api` failures of the
transport. `metadata` holds ``command`` and, where CloudStack gave them, ``errorcode`` and
``errortext``.
"""

from services.kit.failure import Code, ServiceError


class CloudStackUnreachable(ServiceError):
    """No connection to the management server was made; the request was not sent."""

    code = Code.UNAVAILABLE
    reason = "CLOUDSTACK_UNREACHABLE"
    retryable = True
    hint = "check cloudstack.endpoint, and that the management server answers on that address"


class CloudStackAnswerLost(ServiceError):
    """The connection broke before the answer: CloudStack may have carried out the request."""

    code = Code.UNAVAILABLE
    reason = "CLOUDSTACK_ANSWER_LOST"
    retryable = True
    hint = "repeat the call with the same job id: it finds what the first call has done"


class CloudStackTimeout(CloudStackAnswerLost):
    """The server did not answer within cloudstack.timeout_seconds."""

    code = Code.DEADLINE_EXCEEDED
    reason = "CLOUDSTACK_TIMEOUT"
    hint = "check the load of the management server and its database, or raise the timeout"


class CloudStackUnavailable(ServiceError):
    """A proxy or load balancer answered for the management server (429, 502, 503, 504)."""

    code = Code.UNAVAILABLE
    reason = "CLOUDSTACK_UNAVAILABLE"
    retryable = True
    hint = "wait until the management server is back; check the proxy or load balancer before it"


class CloudStackUntrusted(ServiceError):
    """This host does not trust the server's TLS certificate."""

    code = Code.FAILED_PRECONDITION
    reason = "CLOUDSTACK_UNTRUSTED"
    hint = (
        "add the CA of the management server to this host's CA bundle, or name its file in "
        "REQUESTS_CA_BUNDLE for the agent's process"
    )


class CloudStackAnswerInvalid(ServiceError):
    """The answer is not one of CloudStack's API."""

    code = Code.FAILED_PRECONDITION
    reason = "CLOUDSTACK_ANSWER_INVALID"
    hint = "check that cloudstack.endpoint is the API's address, usually …:8080/client/api"


class CloudStackLoginFailed(ServiceError):
    """The signature was refused (401): a wrong key, or clocks that differ."""

    code = Code.FAILED_PRECONDITION
    reason = "CLOUDSTACK_LOGIN_FAILED"
    hint = (
        "correct cloudstack.api_key and cloudstack.secret_key, and check that this host's clock "
        "and the management server's agree: a request is valid for ten minutes"
    )


class CloudStackPermissionDenied(ServiceError):
    """The account may not run this command (531)."""

    code = Code.PERMISSION_DENIED
    reason = "CLOUDSTACK_PERMISSION_DENIED"
    hint = "use the keys of a root admin: importing VMs and volumes needs one"


class CloudStackCommandMissing(ServiceError):
    """This CloudStack has no such command, or the account's role does not allow it (432)."""

    code = Code.FAILED_PRECONDITION
    reason = "CLOUDSTACK_COMMAND_MISSING"
    hint = "importing KVM disks needs CloudStack 4.19 or later and the keys of a root admin"


class CloudStackParameterRefused(ServiceError):
    """A parameter's value is invalid, or is the id of nothing that exists (430, 431)."""

    code = Code.INVALID_ARGUMENT
    reason = "CLOUDSTACK_PARAMETER_REFUSED"
    hint = "correct the value that CloudStack names; ids must be those of this CloudStack"


class CloudStackLimitReached(ServiceError):
    """The account or domain has reached a resource limit (532)."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "CLOUDSTACK_LIMIT_REACHED"
    hint = "raise the account's or domain's resource limit, then retry"


class CloudStackCapacityExhausted(ServiceError):
    """No host, pool or address has capacity left (533, or no placement was found)."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "CLOUDSTACK_CAPACITY_EXHAUSTED"
    hint = (
        "free capacity of the cluster, the storage pool (CloudStack uses it up to 85 %) or the "
        "network's address range, then retry"
    )


class CloudStackFailed(ServiceError):
    """CloudStack reported a failure for which this agent has no other reason, often error 530."""

    code = Code.ABORTED
    reason = "CLOUDSTACK_FAILED"
    hint = "look for the job in the management server's log, and in the log of the KVM host's agent"


class CloudStackRestarted(ServiceError):
    """A restart of the management server ended the job before it was finished."""

    code = Code.ABORTED
    reason = "CLOUDSTACK_RESTARTED"
    retryable = True
    hint = "retry with a new job id: the call first looks for what the ended job has done"


class DiskInvalid(ServiceError):
    """CloudStack's host found no importable QCOW2 image under that name."""

    code = Code.FAILED_PRECONDITION
    reason = "DISK_INVALID"
    hint = (
        "the file must lie in the pool's root directory and be a plain QCOW2 image: no backing "
        "or external data file, no encryption, no extended L2 entries; the pool must be of a type "
        "that this CloudStack imports from (NFS, Filesystem; SharedMountPoint from 4.22.1)"
    )


class DiskLocked(ServiceError):
    """Another process has the image open for writing."""

    code = Code.FAILED_PRECONDITION
    reason = "DISK_LOCKED"
    retryable = True
    hint = "end the process that holds the image (qemu-nbd, qemu-img, a VM), then retry"


class DiskInUse(ServiceError):
    """The file belongs to a volume of CloudStack; metadata ``volume`` and ``vm`` name it."""

    code = Code.ALREADY_EXISTS
    reason = "DISK_IN_USE"
    hint = "unmanage that VM or volume in CloudStack to import it again; its file is kept"


class StoragePoolNotFound(ServiceError):
    """No pool has this id."""

    code = Code.NOT_FOUND
    reason = "STORAGE_POOL_NOT_FOUND"
    hint = "take an id from the list of storage pools"


class StoragePoolUnsupported(ServiceError):
    """CloudStack cannot import QCOW2 files from a pool of this type, or its source is unusable."""

    code = Code.FAILED_PRECONDITION
    reason = "STORAGE_POOL_UNSUPPORTED"
    hint = (
        "choose a pool of type NetworkFilesystem or Filesystem, or SharedMountPoint with "
        "CloudStack 4.22.1 or later"
    )


class StoragePoolNotReady(ServiceError):
    """The pool is in maintenance or down."""

    code = Code.FAILED_PRECONDITION
    reason = "STORAGE_POOL_NOT_READY"
    retryable = True
    hint = "bring the pool to the state Up in CloudStack"


class VmNotFound(ServiceError):
    """No virtual machine has this id or name."""

    code = Code.NOT_FOUND
    reason = "VM_NOT_FOUND"
    hint = "check the id or the name; a name must equal the host name or the display name"


class VmAmbiguous(ServiceError):
    """Several virtual machines have this name; metadata ``vms`` lists their ids."""

    code = Code.FAILED_PRECONDITION
    reason = "VM_AMBIGUOUS"
    hint = "name the virtual machine by its id"


class VmNotStopped(ServiceError):
    """The change is possible only while the machine is stopped."""

    code = Code.FAILED_PRECONDITION
    reason = "VM_NOT_STOPPED"
    hint = "stop the virtual machine in CloudStack first"


class VolumeNotFound(ServiceError):
    """No volume has this id, or this file name in the pool."""

    code = Code.NOT_FOUND
    reason = "VOLUME_NOT_FOUND"
    hint = "check the id, or the pool and the file name"


class VolumeAttached(ServiceError):
    """The volume is attached to another virtual machine; metadata ``vm`` names it."""

    code = Code.FAILED_PRECONDITION
    reason = "VOLUME_ATTACHED"
    hint = "detach the volume in CloudStack first"


class NicConflict(ServiceError):
    """The machine already has an adapter on this network, with another MAC address."""

    code = Code.ALREADY_EXISTS
    reason = "NIC_CONFLICT"
    hint = "map the adapters to different networks: CloudStack allows one adapter per network"


class ImportUnsettled(ServiceError):
    """CloudStack has a half-imported machine, and whether its import still runs is not known."""

    code = Code.ABORTED
    reason = "IMPORT_UNSETTLED"
    retryable = True
    hint = (
        "wait for the other imports to end, then retry: the half-imported machine is removed first"
    )


class JobNotFound(ServiceError):
    """CloudStack knows no job of this id: it was never submitted, or ended over a day ago."""

    code = Code.NOT_FOUND
    reason = "JOB_NOT_FOUND"
    hint = "repeat the call that starts the job: it finds what was done already"


class RequestInvalid(ServiceError):
    """The request to this agent is incomplete or contradicts itself."""

    code = Code.INVALID_ARGUMENT
    reason = "REQUEST_INVALID"
    hint = "correct the field that the message names"
