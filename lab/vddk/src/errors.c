/* Error texts as VixDiskLib prints them. */
#include "lab.h"

static const struct {
  VixError error;
  const char *text;
} texts[] = {
  { VIX_OK, "The operation was successful" },
  { VIX_E_FAIL, "Unknown error" },
  { VIX_E_OUT_OF_MEMORY, "Memory allocation failed. Out of memory." },
  { VIX_E_INVALID_ARG, "One of the parameters was invalid" },
  { VIX_E_FILE_NOT_FOUND, "A file was not found" },
  { VIX_E_OBJECT_IS_BUSY, "This function cannot be performed because the handle is executing "
                          "another function" },
  { VIX_E_NOT_SUPPORTED, "The operation is not supported" },
  { VIX_E_FILE_ERROR, "A file access error occurred on the host or guest operating system" },
  { VIX_E_FILE_READ_ONLY, "A file is read-only" },
  { VIX_E_FILE_ACCESS_ERROR, "You do not have access rights to this file" },
  { VIX_E_WRONG_LOGIN,
    "Cannot complete login due to an incorrect user name or password" },
  { VIX_E_NO_SUCH_VM, "The virtual machine cannot be found" },
  { VIX_E_NO_SUCH_SNAPSHOT, "The snapshot does not exist" },
  { VIX_E_NFC_BUSY, "NBD_ERR_INSUFFICIENT_RESOURCES: Resource temporarily unavailable, the "
                    "host has no free NFC connection (NFC error 5)" },
  { VIX_E_REFUSED, "The server refused connection" },
  { VIX_E_CONNECTION_LOST, "The connection was lost" },
  { VIX_E_SSL, "SSL error: the thumbprint of the server's certificate does not match" },
  { VIX_E_DISK_OUTOFRANGE, "The access is outside the range of the virtual disk" },
  { VIX_E_NOT_INITIALISED, "The virtual disk library has not been initialized, or more than once" },
  { VIX_E_CANNOT_CONNECT, "Cannot connect to host" },
  { VIX_ASYNC, "Asynchronous operation in progress" },
};

const char *
error_text (VixError error)
{
  /* The low 16 bits are the code, as VIX_ERROR_CODE has it. */
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
    if (texts[i].error == (error & 0xffff))
      return texts[i].text;
  return texts[1].text;
}
