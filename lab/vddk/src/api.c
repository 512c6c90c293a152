/* The exported functions of the lab's libvixDiskLib. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lab.h"

typedef struct {
  char *vm;
  char *snapshot;
  const char *transport;
  unsigned open_disks;
} Connection;

typedef struct {
  Disk *disk;
  Connection *connection;
} Handle;

static LabConf conf;
static atomic_bool initialised;

/* VMware: open and close from one thread at a time. The real library may crash; this one reports
   it. */
static atomic_flag busy = ATOMIC_FLAG_INIT;

static VixError
enter (const char *function)
{
  if (!initialised) {
    log_warn ("%s before VixDiskLib_InitEx", function);
    return VIX_E_NOT_INITIALISED;
  }
  if (atomic_flag_test_and_set (&busy)) {
    log_warn ("%s while another thread opens or closes", function);
    return VIX_E_OBJECT_IS_BUSY;
  }
  return VIX_OK;
}

static void
leave (void)
{
  atomic_flag_clear (&busy);
}

static bool
load_conf (void)
{
  Dl_info info;
  char path[PATH_MAX];
  if (dladdr ((void *) load_conf, &info) == 0)
    return false;
  const char *slash = strrchr (info.dli_fname, '/');
  int length = slash ? (int) (slash - info.dli_fname) : 1;
  snprintf (path, sizeof path, "%.*s/lab.conf", length, slash ? info.dli_fname : ".");
  return conf_load (path, &conf);
}

EXPORTED VixError
VixDiskLib_InitEx (uint32_t major, uint32_t minor, LogFunction *log, LogFunction *warn,
                   LogFunction *panic, const char *library_directory, const char *config_file)
{
  (void) library_directory;
  log_set (log, warn, panic);
  /* Real releases accept API versions back to 5.0 and none above their own. */
  if (major < 5 || major > 9)
    return VIX_E_INVALID_ARG;
  if (initialised) {
    log_warn ("VixDiskLib_InitEx was called twice");
    return VIX_E_NOT_INITIALISED;
  }
  if (config_file && *config_file && access (config_file, R_OK) != 0)
    log_warn ("cannot read %s", config_file);
  if (!load_conf ()) {
    log_warn ("lab.conf beside the library is missing or incomplete");
    return VIX_E_FILE_NOT_FOUND;
  }
  initialised = true;
  log_info ("VixDiskLib of the lab, API %u.%u", major, minor);
  return VIX_OK;
}

EXPORTED void
VixDiskLib_Exit (void)
{
  if (initialised) {
    initialised = false;
    conf_free (&conf);
  }
}

EXPORTED char *
VixDiskLib_GetErrorText (VixError error, const char *locale)
{
  (void) locale;
  return strdup (error_text (error));
}

EXPORTED void
VixDiskLib_FreeErrorText (char *text)
{
  free (text);
}

EXPORTED ConnectParams *
VixDiskLib_AllocateConnectParams (void)
{
  return calloc (1, sizeof (ConnectParams));
}

EXPORTED void
VixDiskLib_FreeConnectParams (ConnectParams *params)
{
  /* The strings are the caller's, as in the real library. */
  free (params);
}

static bool
same (const char *a, const char *b)
{
  return a && b && strcmp (a, b) == 0;
}

/* The order is the real one: name and port, certificate, login, then the inventory. */
static VixError
check_login (const ConnectParams *params)
{
  unsigned port = params->port ? params->port : 443;
  if (params->server_name == NULL || !conf_knows_server (&conf, params->server_name)
      || port != conf.port) {
    log_warn ("cannot reach %s:%u", params->server_name ? params->server_name : "", port);
    return VIX_E_CANNOT_CONNECT;
  }
  if (params->thumbprint == NULL || !conf_knows_thumbprint (&conf, params->thumbprint)) {
    log_warn ("SSL: PeerThumbprint: %s, ExpectedThumbprint: %s",
              conf.thumbprints[0] ? conf.thumbprints[0] : "none",
              params->thumbprint ? params->thumbprint : "none");
    return VIX_E_SSL;
  }
  if (params->cred_type != CRED_UID)
    return VIX_E_NOT_SUPPORTED;
  if (!same (params->creds.user_name, conf.user) || !same (params->creds.password, conf.password))
    return VIX_E_WRONG_LOGIN;
  return VIX_OK;
}

/* The first usable mode of a list such as "file:san:hotadd:nbdssl:nbd"; none means any. */
static const char *
choose_transport (const char *modes)
{
  if (modes == NULL || *modes == '\0')
    return "nbdssl";
  char *copy = strdup (modes), *rest = NULL;
  const char *found = NULL;
  for (char *mode = strtok_r (copy, ":", &rest); mode && !found; mode = strtok_r (NULL, ":", &rest))
    if (strcmp (mode, "nbdssl") == 0 || strcmp (mode, "nbd") == 0)
      found = mode[3] ? "nbdssl" : "nbd";
  free (copy);
  return found;
}

static VixError
do_connect (const ConnectParams *params, const char *snapshot, const char *modes,
            Connection **connection)
{
  static const char prefix[] = "moref=";
  const char *transport = choose_transport (modes);
  if (transport == NULL || params->spec_type != 0)
    return VIX_E_NOT_SUPPORTED;
  if (params->vmx_spec == NULL || strncmp (params->vmx_spec, prefix, strlen (prefix)) != 0)
    return VIX_E_INVALID_ARG;
  const char *vm = params->vmx_spec + strlen (prefix);
  VixError error = check_login (params);
  if (!error)
    error = esxi_check_vm (&conf, vm);
  if (error)
    return error;
  Connection *made = calloc (1, sizeof *made);
  if (made == NULL)
    return VIX_E_OUT_OF_MEMORY;
  made->vm = strdup (vm);
  made->snapshot = snapshot && *snapshot ? strdup (snapshot) : NULL;
  made->transport = transport;
  *connection = made;
  return VIX_OK;
}

EXPORTED VixError
VixDiskLib_ConnectEx (const ConnectParams *params, char read_only, const char *snapshot,
                      const char *modes, Connection **connection)
{
  (void) read_only;                     /* the lab serves readers only */
  if (params == NULL || connection == NULL)
    return VIX_E_INVALID_ARG;
  VixError error = enter (__func__);
  if (error)
    return error;
  error = do_connect (params, snapshot, modes, connection);
  leave ();
  return error;
}

EXPORTED VixError
VixDiskLib_Disconnect (Connection *connection)
{
  if (connection == NULL)
    return VIX_E_INVALID_ARG;
  VixError error = enter (__func__);
  if (error)
    return error;
  if (connection->open_disks)
    log_warn ("VixDiskLib_Disconnect with %u open disks", connection->open_disks);
  free (connection->vm);
  free (connection->snapshot);
  free (connection);
  leave ();
  return VIX_OK;
}

static VixError
do_open (Connection *connection, const char *path, Handle **handle)
{
  char *export_name;
  VixError error = esxi_open_file (&conf, connection->vm, path, connection->snapshot,
                                   &export_name);
  if (error)
    return error;
  Handle *made = calloc (1, sizeof *made);
  error = made ? disk_open (&conf, export_name, &made->disk) : VIX_E_OUT_OF_MEMORY;
  free (export_name);
  if (error) {
    free (made);
    return error;
  }
  made->connection = connection;
  connection->open_disks++;
  *handle = made;
  return VIX_OK;
}

EXPORTED VixError
VixDiskLib_Open (Connection *connection, const char *path, uint32_t flags, Handle **handle)
{
  if (connection == NULL || path == NULL || handle == NULL || (flags & ~KNOWN_OPEN_FLAGS))
    return VIX_E_INVALID_ARG;
  VixError error = enter (__func__);
  if (error)
    return error;
  error = do_open (connection, path, handle);
  leave ();
  return error;
}

EXPORTED VixError
VixDiskLib_Close (Handle *handle)
{
  if (handle == NULL)
    return VIX_E_INVALID_ARG;
  VixError error = enter (__func__);
  if (error)
    return error;
  handle->connection->open_disks--;
  disk_close (handle->disk);
  free (handle);
  leave ();
  return VIX_OK;
}

EXPORTED const char *
VixDiskLib_GetTransportMode (Handle *handle)
{
  return handle->connection->transport;
}

EXPORTED VixError
VixDiskLib_GetInfo (Handle *handle, Info **info)
{
  if (handle == NULL || info == NULL)
    return VIX_E_INVALID_ARG;
  *info = calloc (1, sizeof **info);
  if (*info == NULL)
    return VIX_E_OUT_OF_MEMORY;
  (*info)->capacity_sectors = disk_sectors (handle->disk);
  (*info)->adapter_type = 3;            /* LSI Logic */
  (*info)->links = 1;
  (*info)->logical_sector_bytes = SECTOR_BYTES;
  (*info)->physical_sector_bytes = SECTOR_BYTES;
  return VIX_OK;
}

EXPORTED void
VixDiskLib_FreeInfo (Info *info)
{
  free (info);
}

EXPORTED VixError
VixDiskLib_Read (Handle *handle, uint64_t sector, uint64_t count, void *buffer)
{
  return handle ? disk_read (handle->disk, sector, count, buffer) : VIX_E_INVALID_ARG;
}

EXPORTED VixError
VixDiskLib_ReadAsync (Handle *handle, uint64_t sector, uint64_t count, void *buffer,
                      CompletionFunction *callback, void *data)
{
  return handle ? disk_read_async (handle->disk, sector, count, buffer, callback, data)
                : VIX_E_INVALID_ARG;
}

EXPORTED VixError
VixDiskLib_Wait (Handle *handle)
{
  if (handle == NULL)
    return VIX_E_INVALID_ARG;
  disk_wait (handle->disk);
  return VIX_OK;
}

EXPORTED VixError
VixDiskLib_QueryAllocatedBlocks (Handle *handle, uint64_t sector, uint64_t count, uint64_t chunk,
                                 BlockList **list)
{
  if (handle == NULL || list == NULL)
    return VIX_E_INVALID_ARG;
  return disk_allocated (handle->disk, sector, count, chunk, list);
}

EXPORTED VixError
VixDiskLib_FreeBlockList (BlockList *list)
{
  free (list);
  return VIX_OK;
}

/* A migration never writes to its source: the lab refuses, like a host that granted read only. */

EXPORTED VixError
VixDiskLib_Write (Handle *handle, uint64_t sector, uint64_t count, const void *buffer)
{
  (void) handle, (void) sector, (void) count, (void) buffer;
  return VIX_E_FILE_READ_ONLY;
}

EXPORTED VixError
VixDiskLib_WriteAsync (Handle *handle, uint64_t sector, uint64_t count, const void *buffer,
                       CompletionFunction *callback, void *data)
{
  (void) handle, (void) sector, (void) count, (void) buffer, (void) callback, (void) data;
  return VIX_E_FILE_READ_ONLY;
}

EXPORTED VixError
VixDiskLib_Flush (Handle *handle)
{
  return handle ? VIX_OK : VIX_E_INVALID_ARG;
}

EXPORTED VixError
VixDiskLib_Create (Connection *connection, const char *path, const void *params, void *progress,
                   void *data)
{
  (void) connection, (void) path, (void) params, (void) progress, (void) data;
  return VIX_E_NOT_SUPPORTED;
}
