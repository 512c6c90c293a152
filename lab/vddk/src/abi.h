/* The part of the libvixDiskLib ABI (x86-64) that callers of this lab library use.
 *
 * Layouts and numbers follow VMware's Virtual Disk Development Kit reference; names are VMware's
 * where they are part of the ABI.
 */
#ifndef LAB_VDDK_ABI_H
#define LAB_VDDK_ABI_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR_BYTES 512
#define MIN_CHUNK_SECTORS 128           /* VIXDISKLIB_MIN_CHUNK_SIZE: 64 KiB */
#define MAX_CHUNKS (512 * 1024)         /* VIXDISKLIB_MAX_CHUNK_NUMBER */

#define OPEN_READ_ONLY 4                /* VIXDISKLIB_FLAG_OPEN_READ_ONLY */
#define KNOWN_OPEN_FLAGS (1 | 2 | OPEN_READ_ONLY | 16 | 32 | 64)

typedef uint64_t VixError;

/* Codes: VIX API reference; 14xxx and 18xxx are the transport's. */
enum {
  VIX_OK = 0,
  VIX_E_FAIL = 1,
  VIX_E_OUT_OF_MEMORY = 2,
  VIX_E_INVALID_ARG = 3,
  VIX_E_FILE_NOT_FOUND = 4,
  VIX_E_OBJECT_IS_BUSY = 5,
  VIX_E_NOT_SUPPORTED = 6,
  VIX_E_FILE_ERROR = 7,
  VIX_E_FILE_READ_ONLY = 11,
  VIX_E_FILE_ACCESS_ERROR = 13,
  VIX_E_WRONG_LOGIN = 3014,
  VIX_E_NO_SUCH_SNAPSHOT = 13000,
  VIX_E_NO_SUCH_VM = 4000,
  VIX_E_NFC_BUSY = 14008,
  VIX_E_REFUSED = 14009,
  VIX_E_CONNECTION_LOST = 14011,
  VIX_E_SSL = 14042,
  VIX_E_DISK_OUTOFRANGE = 16007,
  VIX_E_NOT_INITIALISED = 16001,
  VIX_E_CANNOT_CONNECT = 18000,
  VIX_ASYNC = 25000,
};

enum { CRED_UID = 1, CRED_SESSION = 2 };

typedef struct {
  char *vmx_spec;                       /* "moref=vm-12" */
  char *server_name;
  char *thumbprint;
  long private_use;
  uint32_t cred_type;
  uint32_t padding;
  struct {
    char *user_name;
    char *password;
    char *key;
  } creds;
  uint32_t port;
  uint32_t nfc_host_port;
  char *vim_api_version;
  char reserved[8];
  void *state;
  char spec[24];
  uint32_t spec_type;                   /* 0: vmx_spec is used */
  uint32_t padding2;
} ConnectParams;

typedef struct {
  uint32_t bios_geometry[3];
  uint32_t physical_geometry[3];
  uint64_t capacity_sectors;
  uint32_t adapter_type;
  int32_t links;
  char *parent_hint;
  char *uuid;
  uint32_t logical_sector_bytes;
  uint32_t physical_sector_bytes;
} Info;

typedef struct {
  uint64_t offset;                      /* sectors */
  uint64_t length;
} Block;

typedef struct {
  uint32_t count;
  uint32_t padding;
  Block blocks[];
} BlockList;

typedef void LogFunction (const char *format, va_list arguments);
typedef void CompletionFunction (void *data, VixError result);

_Static_assert (sizeof (ConnectParams) == 128, "ConnectParams");
_Static_assert (offsetof (ConnectParams, creds) == 40, "creds");
_Static_assert (offsetof (ConnectParams, port) == 64, "port");
_Static_assert (offsetof (ConnectParams, spec) == 96, "spec");
_Static_assert (offsetof (ConnectParams, spec_type) == 120, "spec_type");
_Static_assert (sizeof (Info) == 64, "Info");
_Static_assert (offsetof (Info, capacity_sectors) == 24, "capacity");
_Static_assert (offsetof (Info, parent_hint) == 40, "parent_hint");
_Static_assert (offsetof (Info, logical_sector_bytes) == 56, "sector size");
_Static_assert (offsetof (BlockList, blocks) == 8, "blocks");

#define EXPORTED __attribute__ ((visibility ("default")))

#endif
