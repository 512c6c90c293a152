/* lab.conf: the lab's ESXi side's socket, and the logins it accepts. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lab.h"

static void
append (char **values, const char *value)
{
  for (int i = 0; i < MAX_VALUES; i++)
    if (values[i] == NULL) {
      values[i] = strdup (value);
      return;
    }
}

static void
set (LabConf *conf, const char *key, const char *value)
{
  if (strcmp (key, "nbd_socket") == 0)
    conf->nbd_socket = strdup (value);
  else if (strcmp (key, "control_socket") == 0)
    conf->control_socket = strdup (value);
  else if (strcmp (key, "user") == 0)
    conf->user = strdup (value);
  else if (strcmp (key, "password") == 0)
    conf->password = strdup (value);
  else if (strcmp (key, "port") == 0)
    conf->port = strtoul (value, NULL, 10);
  else if (strcmp (key, "server") == 0)
    append (conf->servers, value);
  else if (strcmp (key, "thumbprint") == 0)
    append (conf->thumbprints, value);
}

bool
conf_load (const char *path, LabConf *conf)
{
  memset (conf, 0, sizeof *conf);
  FILE *file = fopen (path, "re");
  if (file == NULL)
    return false;
  char *line = NULL;
  size_t room = 0;
  ssize_t length;
  while ((length = getline (&line, &room, file)) > 0) {
    if (line[length - 1] == '\n')
      line[length - 1] = '\0';
    char *equals = strchr (line, '=');
    if (equals) {
      *equals = '\0';
      set (conf, line, equals + 1);
    }
  }
  free (line);
  fclose (file);
  return conf->nbd_socket && conf->control_socket && conf->user && conf->password;
}

bool
conf_knows_server (const LabConf *conf, const char *server)
{
  for (int i = 0; i < MAX_VALUES && conf->servers[i]; i++)
    if (strcasecmp (conf->servers[i], server) == 0)
      return true;
  return false;
}

/* Tools print thumbprints in either case, with colons or without. */
static bool
same_thumbprint (const char *a, const char *b)
{
  for (;;) {
    while (*a == ':')
      a++;
    while (*b == ':')
      b++;
    if (*a == '\0' || *b == '\0')
      return *a == *b;
    if (tolower ((unsigned char) *a++) != tolower ((unsigned char) *b++))
      return false;
  }
}

bool
conf_knows_thumbprint (const LabConf *conf, const char *thumbprint)
{
  for (int i = 0; i < MAX_VALUES && conf->thumbprints[i]; i++)
    if (same_thumbprint (conf->thumbprints[i], thumbprint))
      return true;
  return false;
}

void
conf_free (LabConf *conf)
{
  free (conf->nbd_socket);
  free (conf->control_socket);
  free (conf->user);
  free (conf->password);
  for (int i = 0; i < MAX_VALUES; i++) {
    free (conf->servers[i]);
    free (conf->thumbprints[i]);
  }
  memset (conf, 0, sizeof *conf);
}
