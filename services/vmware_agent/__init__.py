"""The VMware agent: vCenter session, inventory, changed block tracking, snapshots and power.

The domain (`vm`, `vm_search`, `cbt`, `snapshots`, `changed_areas`, `power`, `preflight` and its
`findings`) uses vCenter through the port in `ports`; the folder `vcenter` implements that port with
pyVmomi; `servicer` and `server` offer the domain over gRPC.
"""
