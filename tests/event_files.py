"""Reads TensorBoard event files."""

import struct

from tensorboardX.proto.event_pb2 import Event, SessionLog


def events(folder):
  """The events of all event files in a folder, in order of file names."""
  found = []
  for file in sorted(folder.glob('events.out.tfevents.*')):
    data = file.read_bytes()
    while data:
      (size,) = struct.unpack_from('Q', data)
      found.append(Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return found


def shown(folder):
  """The values that TensorBoard shows for a resumed run, by (tag, step)."""
  found = {}
  for event in events(folder):
    if event.session_log.status == SessionLog.START:
      found = {key: x for key, x in found.items() if key[1] < event.step}
    found |= {(v.tag, event.step): v for v in event.summary.value}
  return found
