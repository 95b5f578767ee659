"""The only code that speaks to clients: Socket.IO and HTTP."""
