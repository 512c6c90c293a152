/* An open disk: one NBD connection whose requests a thread of its own drives, as VixDiskLib drives
 * an NFC connection. Asynchronous reads overlap; synchronous ones on one disk wait for each other.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <libnbd.h>

#include "lab.h"

#define ALLOCATION "base:allocation"
#define MAX_REQUEST_BYTES (64 << 20)    /* libnbd's limit */

/* Extents of one query, by chunk. */
typedef struct {
  uint64_t offset, length;              /* bytes */
  uint64_t chunk;                       /* bytes */
  uint64_t next;                        /* known up to here */
  unsigned char *used;
} ChunkMap;

typedef struct Request {
  struct Request *next;
  Disk *disk;
  uint64_t offset;
  uint64_t length;
  void *buffer;                         /* NULL: ask for extents, into map */
  ChunkMap *map;
  CompletionFunction *callback;
  void *data;
} Request;

struct Disk {
  struct nbd_handle *nbd;
  uint64_t sectors;
  pthread_t thread;
  int wake;
  pthread_mutex_t one_sync_read;
  pthread_mutex_t lock;                 /* guards all that follows */
  pthread_cond_t idle;
  Request *first, **last;
  unsigned in_flight;                   /* queued ones included */
  bool stop;
  bool lost;
};

/* Dead after an error, closed after the server ended the connection normally. */
static bool
is_gone (Disk *disk)
{
  return nbd_aio_is_dead (disk->nbd) || nbd_aio_is_closed (disk->nbd);
}

static VixError
error_of (Disk *disk, int number)
{
  switch (number) {
  case 0:
    return VIX_OK;
  case EIO:
    return VIX_E_FILE_ERROR;
  case EINVAL:
    return VIX_E_DISK_OUTOFRANGE;
  case ENOMEM:
    return VIX_E_OUT_OF_MEMORY;
  default:
    /* The NFC connection cannot be used again: the disk must be opened again. */
    disk->lost = true;
    return VIX_E_CONNECTION_LOST;
  }
}

static int
complete (void *user_data, int *number)
{
  Request *request = user_data;
  Disk *disk = request->disk;
  pthread_mutex_lock (&disk->lock);
  VixError error = error_of (disk, *number);
  pthread_mutex_unlock (&disk->lock);
  request->callback (request->data, error);
  pthread_mutex_lock (&disk->lock);
  if (--disk->in_flight == 0)
    pthread_cond_broadcast (&disk->idle);
  pthread_mutex_unlock (&disk->lock);
  free (request);
  return 1;
}

static int
note_extents (void *user_data, const char *context, uint64_t offset, uint32_t *entries,
              size_t count, int *error)
{
  Request *request = user_data;
  ChunkMap *map = request->map;
  (void) error;
  if (strcmp (context, ALLOCATION) != 0)
    return 0;
  uint64_t limit = map->offset + map->length;
  for (size_t i = 0; i + 1 < count && offset < limit; i += 2) {
    uint64_t end = offset + entries[i] < limit ? offset + entries[i] : limit;
    if (!(entries[i + 1] & LIBNBD_STATE_HOLE))
      for (uint64_t at = offset - offset % map->chunk; at < end; at += map->chunk)
        map->used[(at - map->offset) / map->chunk] = 1;
    offset = end;
  }
  map->next = offset;
  return 0;
}

static void
submit (Disk *disk, Request *request)
{
  nbd_completion_callback done = { .callback = complete, .user_data = request };
  nbd_extent_callback extents = { .callback = note_extents, .user_data = request };
  int64_t cookie =
    request->buffer
    ? nbd_aio_pread (disk->nbd, request->buffer, request->length, request->offset, done, 0)
    : nbd_aio_block_status (disk->nbd, request->length, request->offset, extents, done, 0);
  if (cookie == -1) {
    /* On an ended connection libnbd reports an invalid state, not the connection's end. */
    int number = is_gone (disk) ? ENOTCONN : nbd_get_errno ();
    complete (request, &number);
  }
}

static void
poll_once (Disk *disk)
{
  unsigned direction = nbd_aio_get_direction (disk->nbd);
  struct pollfd fds[2] = { { .fd = disk->wake, .events = POLLIN },
                           { .fd = is_gone (disk) ? -1 : nbd_aio_get_fd (disk->nbd) } };
  if (direction & LIBNBD_AIO_DIRECTION_READ)
    fds[1].events |= POLLIN;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE)
    fds[1].events |= POLLOUT;
  if (poll (fds, 2, -1) < 0)
    return;
  uint64_t value;
  if (fds[0].revents && read (disk->wake, &value, sizeof value) < 0)
    log_warn ("eventfd: %s", strerror (errno));
  /* Read before write: the server may accept the next request only after its reply is read. */
  if (fds[1].revents & (POLLIN | POLLHUP | POLLERR))
    nbd_aio_notify_read (disk->nbd);
  else if (fds[1].revents & POLLOUT)
    nbd_aio_notify_write (disk->nbd);
}

static void *
drive (void *argument)
{
  Disk *disk = argument;
  for (;;) {
    pthread_mutex_lock (&disk->lock);
    Request *queue = disk->first;
    bool stop = disk->stop && disk->in_flight == 0;
    disk->first = NULL;
    disk->last = &disk->first;
    pthread_mutex_unlock (&disk->lock);
    if (stop)
      return NULL;
    while (queue) {
      Request *request = queue;
      queue = request->next;
      submit (disk, request);
    }
    poll_once (disk);
  }
}

static void
wake (Disk *disk)
{
  uint64_t one = 1;
  if (write (disk->wake, &one, sizeof one) < 0)
    log_warn ("eventfd: %s", strerror (errno));
}

static VixError
enqueue (Disk *disk, uint64_t offset, uint64_t length, void *buffer, ChunkMap *map,
         CompletionFunction *callback, void *data)
{
  Request *request = calloc (1, sizeof *request);
  if (request == NULL)
    return VIX_E_OUT_OF_MEMORY;
  *request = (Request) { .disk = disk, .offset = offset, .length = length, .buffer = buffer,
                         .map = map, .callback = callback, .data = data };
  pthread_mutex_lock (&disk->lock);
  bool lost = disk->lost;
  if (!lost) {
    *disk->last = request;
    disk->last = &request->next;
    disk->in_flight++;
  }
  pthread_mutex_unlock (&disk->lock);
  if (lost) {
    free (request);
    return VIX_E_CONNECTION_LOST;
  }
  wake (disk);
  return VIX_OK;
}

VixError
disk_open (const LabConf *conf, const char *export_name, Disk **result)
{
  Disk *disk = calloc (1, sizeof *disk);
  if (disk == NULL)
    return VIX_E_OUT_OF_MEMORY;
  disk->last = &disk->first;
  disk->nbd = nbd_create ();
  if (disk->nbd == NULL
      || nbd_set_export_name (disk->nbd, export_name) == -1
      || nbd_add_meta_context (disk->nbd, ALLOCATION) == -1
      || nbd_connect_unix (disk->nbd, conf->nbd_socket) == -1) {
    log_warn ("%s: %s", export_name, nbd_get_error ());
    nbd_close (disk->nbd);
    free (disk);
    return VIX_E_CANNOT_CONNECT;
  }
  disk->sectors = nbd_get_size (disk->nbd) / SECTOR_BYTES;
  disk->wake = eventfd (0, EFD_CLOEXEC);
  pthread_mutex_init (&disk->one_sync_read, NULL);
  pthread_mutex_init (&disk->lock, NULL);
  pthread_cond_init (&disk->idle, NULL);
  if (disk->wake < 0 || pthread_create (&disk->thread, NULL, drive, disk) != 0) {
    nbd_close (disk->nbd);
    free (disk);
    return VIX_E_OUT_OF_MEMORY;
  }
  *result = disk;
  return VIX_OK;
}

void
disk_wait (Disk *disk)
{
  pthread_mutex_lock (&disk->lock);
  while (disk->in_flight)
    pthread_cond_wait (&disk->idle, &disk->lock);
  pthread_mutex_unlock (&disk->lock);
}

void
disk_close (Disk *disk)
{
  pthread_mutex_lock (&disk->lock);
  disk->stop = true;
  pthread_mutex_unlock (&disk->lock);
  disk_wait (disk);
  wake (disk);
  pthread_join (disk->thread, NULL);
  if (!is_gone (disk))
    nbd_shutdown (disk->nbd, 0);
  nbd_close (disk->nbd);
  close (disk->wake);
  pthread_cond_destroy (&disk->idle);
  pthread_mutex_destroy (&disk->lock);
  pthread_mutex_destroy (&disk->one_sync_read);
  free (disk);
}

uint64_t
disk_sectors (const Disk *disk)
{
  return disk->sectors;
}

static VixError
check_range (const Disk *disk, uint64_t sector, uint64_t count)
{
  if (count == 0 || sector > disk->sectors || count > disk->sectors - sector)
    return VIX_E_DISK_OUTOFRANGE;
  return VIX_OK;
}

VixError
disk_read_async (Disk *disk, uint64_t sector, uint64_t count, void *buffer,
                 CompletionFunction *callback, void *data)
{
  VixError error = check_range (disk, sector, count);
  if (error)
    return error;
  if (count * SECTOR_BYTES > MAX_REQUEST_BYTES || buffer == NULL || callback == NULL)
    return VIX_E_INVALID_ARG;
  error = enqueue (disk, sector * SECTOR_BYTES, count * SECTOR_BYTES, buffer, NULL, callback,
                   data);
  return error ? error : VIX_ASYNC;
}

/* A caller that waits for one completion. */
typedef struct {
  pthread_mutex_t lock;
  pthread_cond_t done;
  bool finished;
  VixError error;
} Waiter;

static void
finish_waiter (void *data, VixError error)
{
  Waiter *waiter = data;
  pthread_mutex_lock (&waiter->lock);
  waiter->finished = true;
  waiter->error = error;
  pthread_cond_signal (&waiter->done);
  pthread_mutex_unlock (&waiter->lock);
}

static VixError
run_and_wait (Disk *disk, uint64_t offset, uint64_t length, void *buffer, ChunkMap *map)
{
  Waiter waiter = { .lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER };
  VixError error = enqueue (disk, offset, length, buffer, map, finish_waiter, &waiter);
  pthread_mutex_lock (&waiter.lock);
  while (!error && !waiter.finished)
    pthread_cond_wait (&waiter.done, &waiter.lock);
  if (!error)
    error = waiter.error;
  pthread_mutex_unlock (&waiter.lock);
  return error;
}

VixError
disk_read (Disk *disk, uint64_t sector, uint64_t count, void *buffer)
{
  VixError error = check_range (disk, sector, count);
  if (error)
    return error;
  if (count * SECTOR_BYTES > MAX_REQUEST_BYTES || buffer == NULL)
    return VIX_E_INVALID_ARG;
  pthread_mutex_lock (&disk->one_sync_read);
  error = run_and_wait (disk, sector * SECTOR_BYTES, count * SECTOR_BYTES, buffer, NULL);
  pthread_mutex_unlock (&disk->one_sync_read);
  return error;
}

/* Chunks in use as a list of merged blocks, in sectors. */
static BlockList *
block_list (const ChunkMap *map)
{
  uint64_t chunks = map->length / map->chunk, count = 0;
  for (uint64_t i = 0; i < chunks; i++)
    count += map->used[i] && (i == 0 || !map->used[i - 1]);
  BlockList *list = calloc (1, sizeof *list + count * sizeof list->blocks[0]);
  if (list == NULL)
    return NULL;
  for (uint64_t i = 0; i < chunks; i++) {
    if (!map->used[i])
      continue;
    if (i == 0 || !map->used[i - 1])
      list->blocks[list->count++].offset = (map->offset + i * map->chunk) / SECTOR_BYTES;
    list->blocks[list->count - 1].length += map->chunk / SECTOR_BYTES;
  }
  return list;
}

VixError
disk_allocated (Disk *disk, uint64_t sector, uint64_t count, uint64_t chunk, BlockList **list)
{
  VixError error = check_range (disk, sector, count);
  if (error)
    return error;
  if (chunk < MIN_CHUNK_SECTORS || (chunk & (chunk - 1)) || sector % chunk || count % chunk
      || count / chunk > MAX_CHUNKS)
    return VIX_E_INVALID_ARG;
  ChunkMap map = { .offset = sector * SECTOR_BYTES, .length = count * SECTOR_BYTES,
                   .chunk = chunk * SECTOR_BYTES, .next = sector * SECTOR_BYTES };
  map.used = calloc (count / chunk, 1);
  if (map.used == NULL)
    return VIX_E_OUT_OF_MEMORY;
  while (!error && map.next < map.offset + map.length) {
    uint64_t before = map.next;
    uint64_t left = map.offset + map.length - before;
    error = run_and_wait (disk, before, left < (1u << 31) ? left : (1u << 31), NULL, &map);
    if (!error && map.next == before)
      error = VIX_E_FAIL;               /* a server that answers nothing would loop us for ever */
  }
  if (!error && (*list = block_list (&map)) == NULL)
    error = VIX_E_OUT_OF_MEMORY;
  free (map.used);
  return error;
}
