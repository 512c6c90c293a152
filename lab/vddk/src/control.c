/* Questions to the ESXi side: one JSON line to its control socket, one back.
 *
 * No JSON library: requests hold three strings, and of an answer only "ok", "kind" and "export"
 * matter, whose values contain nothing that JSON would escape.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "lab.h"

#define ANSWER_SECONDS 30

static void
write_string (FILE *out, const char *text)
{
  if (text == NULL) {
    fputs ("null", out);
    return;
  }
  fputc ('"', out);
  for (const unsigned char *at = (const unsigned char *) text; *at; at++)
    if (*at == '"' || *at == '\\')
      fprintf (out, "\\%c", *at);
    else if (*at < 0x20)
      fprintf (out, "\\u%04x", *at);
    else
      fputc (*at, out);
  fputc ('"', out);
}

static char *
find_string (const char *answer, const char *key)
{
  char start[32];
  snprintf (start, sizeof start, "\"%s\": \"", key);
  const char *found = strstr (answer, start);
  if (found == NULL)
    return NULL;
  found += strlen (start);
  const char *end = strchr (found, '"');
  return end ? strndup (found, end - found) : NULL;
}

static int
connect_to (const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  struct timeval limit = { .tv_sec = ANSWER_SECONDS };
  if (strlen (path) >= sizeof address.sun_path)
    return -1;
  strcpy (address.sun_path, path);
  int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (connect (fd, (struct sockaddr *) &address, sizeof address) == 0)
    return fd;
  close (fd);
  return -1;
}

/* The answer's line, or NULL when the ESXi side does not answer. */
static char *
ask (const LabConf *conf, const char *request, size_t size)
{
  int fd = connect_to (conf->control_socket);
  if (fd < 0)
    return NULL;
  char *line = NULL;
  size_t room = 0;
  FILE *stream = fdopen (fd, "r+");
  if (send (fd, request, size, MSG_NOSIGNAL) != (ssize_t) size
      || getline (&line, &room, stream) <= 0) {
    free (line);
    line = NULL;
  }
  fclose (stream);
  return line;
}

static VixError
refusal (const char *answer)
{
  static const struct {
    const char *kind;
    VixError error;
  } table[] = {
    { "no_vm", VIX_E_NO_SUCH_VM },
    { "no_snapshot", VIX_E_NO_SUCH_SNAPSHOT },
    { "no_file", VIX_E_FILE_NOT_FOUND },
    { "access_denied", VIX_E_FILE_ACCESS_ERROR },
    { "nfc_busy", VIX_E_NFC_BUSY },
  };
  VixError error = VIX_E_FAIL;
  char *kind = find_string (answer, "kind");
  for (size_t i = 0; kind && i < sizeof table / sizeof table[0]; i++)
    if (strcmp (kind, table[i].kind) == 0)
      error = table[i].error;
  log_info ("the host refused: %s", answer);
  free (kind);
  return error;
}

static VixError
exchange (const LabConf *conf, const char *operation, const char *vm, const char *path,
          const char *snapshot, char **answer)
{
  char *request = NULL;
  size_t size = 0;
  FILE *out = open_memstream (&request, &size);
  fprintf (out, "{\"op\": \"%s\", \"vm\": ", operation);
  write_string (out, vm);
  if (path) {
    fputs (", \"path\": ", out);
    write_string (out, path);
    fputs (", \"snapshot\": ", out);
    write_string (out, snapshot);
  }
  fputs ("}\n", out);
  fclose (out);
  *answer = ask (conf, request, size);
  free (request);
  if (*answer == NULL)
    return VIX_E_CANNOT_CONNECT;
  if (strstr (*answer, "\"ok\": true"))
    return VIX_OK;
  VixError error = refusal (*answer);
  free (*answer);
  *answer = NULL;
  return error;
}

VixError
esxi_check_vm (const LabConf *conf, const char *vm)
{
  char *answer;
  VixError error = exchange (conf, "check_vm", vm, NULL, NULL, &answer);
  free (answer);
  return error;
}

VixError
esxi_open_file (const LabConf *conf, const char *vm, const char *path, const char *snapshot,
                char **export_name)
{
  char *answer;
  VixError error = exchange (conf, "open_file", vm, path, snapshot, &answer);
  if (error)
    return error;
  *export_name = find_string (answer, "export");
  free (answer);
  return *export_name ? VIX_OK : VIX_E_FAIL;
}
