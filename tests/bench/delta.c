/* Copies ranges of an NBD export to the same place of another, the way the engine does it.
 *
 * One poll loop, tasks along chunks of 1 MiB, 16 in flight, areas of a chunk that lie near each
 * other joined, zeroes written as zeroes, one flush at the end. No digests, no map, no resume, no
 * limits. With "along" a chunk of which half changed is read as a whole, as the engine does to have
 * a digest of it; only what changed is written.
 *
 *   delta SOURCE-URI TARGET-URI along|ranges < ranges      (lines "offset length", ascending)
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libnbd.h>

enum { CHUNK = 1 << 20, NEAR = 64 << 10, DEPTH = 16, AREAS = CHUNK / NEAR };

struct area {
  uint64_t offset, length;
};

struct slot {
  char *memory;
  uint64_t chunk;
  struct area areas[AREAS];
  size_t count, covered;
  unsigned pending;
  int writing;
  struct slot *next;
};

static struct slot slots[DEPTH];
static struct slot *idle, *completed;
static struct area range;
static int along;

static void
die (const char *what)
{
  fprintf (stderr, "%s: %s\n", what, nbd_get_error ());
  exit (1);
}

/* libnbd holds the handle's lock here: only take a note. */
static int
done (void *opaque, int *error)
{
  struct slot *slot = opaque;
  if (*error) {
    fprintf (stderr, "request failed: %s\n", strerror (*error));
    exit (1);
  }
  if (--slot->pending == 0) {
    slot->next = completed;
    completed = slot;
  }
  return 1;
}

/* The areas of the next chunk that has any; 0 at the end. */
static int
next_chunk (struct slot *slot)
{
  slot->count = slot->covered = 0;
  for (;;) {
    struct area piece, *last = &slot->areas[slot->count - 1];
    if (range.length == 0 && scanf ("%lu %lu", &range.offset, &range.length) != 2)
      return slot->count > 0;
    if (slot->count == 0)
      slot->chunk = range.offset - range.offset % CHUNK;
    else if (range.offset >= slot->chunk + CHUNK)
      return 1;
    piece.offset = range.offset;
    piece.length = slot->chunk + CHUNK - range.offset;
    if (piece.length > range.length)
      piece.length = range.length;
    range.offset += piece.length;
    range.length -= piece.length;
    slot->covered += piece.length;
    if (slot->count > 0 && piece.offset - (last->offset + last->length) <= NEAR)
      last->length = piece.offset + piece.length - last->offset;
    else
      slot->areas[slot->count++] = piece;
  }
}

static void
read_areas (struct nbd_handle *source, struct slot *slot)
{
  nbd_completion_callback callback = { .callback = done, .user_data = slot };
  struct area whole = { slot->chunk, CHUNK };
  int read_whole = along && 2 * slot->covered >= CHUNK;
  const struct area *areas = read_whole ? &whole : slot->areas;
  size_t i, count = read_whole ? 1 : slot->count;

  slot->writing = 0;
  slot->pending = count;
  for (i = 0; i < count; i++)
    if (nbd_aio_pread (source, slot->memory + (areas[i].offset - slot->chunk), areas[i].length,
                       areas[i].offset, callback, 0) == -1)
      die ("read");
}

static int
is_zero (const char *memory, size_t length)
{
  return memory[0] == 0 && memcmp (memory, memory + 1, length - 1) == 0;
}

static void
write_areas (struct nbd_handle *target, struct slot *slot)
{
  nbd_completion_callback callback = { .callback = done, .user_data = slot };
  size_t i;

  slot->writing = 1;
  slot->pending = slot->count;
  for (i = 0; i < slot->count; i++) {
    const struct area *area = &slot->areas[i];
    const char *memory = slot->memory + (area->offset - slot->chunk);
    int64_t cookie = is_zero (memory, area->length)
      ? nbd_aio_zero (target, area->length, area->offset, callback, 0)
      : nbd_aio_pwrite (target, memory, area->length, area->offset, callback, 0);
    if (cookie == -1)
      die ("write");
  }
}

static void
wait_for_either (struct nbd_handle *handles[2])
{
  struct pollfd fds[2];
  int i;

  for (i = 0; i < 2; i++) {
    unsigned direction = nbd_aio_get_direction (handles[i]);
    fds[i].fd = nbd_aio_get_fd (handles[i]);
    fds[i].events = (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0)
                    | (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
  }
  if (poll (fds, 2, -1) == -1) {
    perror ("poll");
    exit (1);
  }
  for (i = 0; i < 2; i++) {
    if (fds[i].revents & ~POLLOUT) {
      if (nbd_aio_notify_read (handles[i]) == -1)
        die ("notify");
    } else if (fds[i].revents && nbd_aio_notify_write (handles[i]) == -1)
      die ("notify");
  }
}

int
main (int argc, char *argv[])
{
  struct nbd_handle *handles[2];
  int i, busy = 0, more = 1;

  if (argc != 4) {
    fprintf (stderr, "usage: delta SOURCE-URI TARGET-URI along|ranges < ranges\n");
    return 2;
  }
  along = strcmp (argv[3], "along") == 0;
  for (i = 0; i < 2; i++) {
    handles[i] = nbd_create ();
    if (handles[i] == NULL || nbd_connect_uri (handles[i], argv[i + 1]) == -1)
      die ("connect");
    nbd_set_pread_initialize (handles[i], false);
  }
  for (i = 0; i < DEPTH; i++) {
    if (posix_memalign ((void **) &slots[i].memory, 4096, CHUNK) != 0)
      return 1;
    slots[i].next = idle;
    idle = &slots[i];
  }
  while (more || busy) {
    while (idle != NULL && more) {
      struct slot *slot = idle;
      more = next_chunk (slot);
      if (!more)
        break;
      idle = slot->next;
      busy++;
      read_areas (handles[0], slot);
    }
    if (busy && completed == NULL)
      wait_for_either (handles);
    while (completed != NULL) {
      struct slot *slot = completed;
      completed = slot->next;
      if (!slot->writing)
        write_areas (handles[1], slot);
      else {
        slot->next = idle;
        idle = slot;
        busy--;
      }
    }
  }
  if (nbd_flush (handles[1], 0) == -1)
    die ("flush");
  for (i = 0; i < 2; i++) {
    nbd_shutdown (handles[i], 0);
    nbd_close (handles[i]);
  }
  return 0;
}
