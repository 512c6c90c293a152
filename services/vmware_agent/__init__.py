"""The VMware agent: vCenter session, inventory, changed block tracking, snapshots and power.

The domain (`vm`, `inventory`, `cbt`, `snapshots`, `changed_areas`, `power`, `preflight`) speaks to
vCenter through the port in `ports`; `vcenter` and the modules it uses implement that port with
pyVmomi; `servicer` and `server` put it on gRPC.
"""
