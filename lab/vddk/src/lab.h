/* What the parts of the lab's VDDK share: its configuration, the control socket, an open disk. */
#ifndef LAB_VDDK_LAB_H
#define LAB_VDDK_LAB_H

#include <stdbool.h>

#include "abi.h"

#define MAX_VALUES 8

/* lab.conf beside the library: key=value lines, server and thumbprint may repeat. */
typedef struct {
  char *nbd_socket;
  char *control_socket;
  char *user;
  char *password;
  unsigned port;
  char *servers[MAX_VALUES];
  char *thumbprints[MAX_VALUES];
} LabConf;

/* conf.c */
bool conf_load (const char *path, LabConf *conf);
bool conf_knows_server (const LabConf *conf, const char *server);
bool conf_knows_thumbprint (const LabConf *conf, const char *thumbprint);
void conf_free (LabConf *conf);

/* errors.c */
const char *error_text (VixError error);

/* log.c */
void log_set (LogFunction *log, LogFunction *warn, LogFunction *panic);
void log_info (const char *format, ...) __attribute__ ((format (printf, 1, 2)));
void log_warn (const char *format, ...) __attribute__ ((format (printf, 1, 2)));

/* control.c: ask the ESXi side. On VIX_OK of esxi_open_file the caller frees *export_name. */
VixError esxi_check_vm (const LabConf *conf, const char *vm);
VixError esxi_open_file (const LabConf *conf, const char *vm, const char *path,
                         const char *snapshot, char **export_name);

/* disk.c: one NBD connection, driven by a thread of its own. */
typedef struct Disk Disk;
VixError disk_open (const LabConf *conf, const char *export_name, Disk **disk);
void disk_close (Disk *disk);
uint64_t disk_sectors (const Disk *disk);
VixError disk_read_async (Disk *disk, uint64_t sector, uint64_t count, void *buffer,
                          CompletionFunction *callback, void *data);
VixError disk_read (Disk *disk, uint64_t sector, uint64_t count, void *buffer);
VixError disk_allocated (Disk *disk, uint64_t sector, uint64_t count, uint64_t chunk,
                         BlockList **list);
void disk_wait (Disk *disk);

#endif
