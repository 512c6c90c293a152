/* The caller's log functions. */
#include "lab.h"

static LogFunction *info_function;
static LogFunction *warn_function;

void
log_set (LogFunction *log, LogFunction *warn, LogFunction *panic)
{
  (void) panic;
  info_function = log;
  warn_function = warn;
}

void
log_info (const char *format, ...)
{
  va_list arguments;
  if (info_function == NULL)
    return;
  va_start (arguments, format);
  info_function (format, arguments);
  va_end (arguments);
}

void
log_warn (const char *format, ...)
{
  va_list arguments;
  if (warn_function == NULL)
    return;
  va_start (arguments, format);
  warn_function (format, arguments);
  va_end (arguments);
}
