"""A TLS front before a plain server, as a witness has one.

Usage: tls_front.py PORT CERT KEY TO_PORT. Serves TLS on a loopback port by Python's own ssl, and hands on
what comes to another one. Prints "ready" when it listens, and ends with its standard input.
"""

import asyncio
import ssl
import sys

PORT, CERT, KEY, TO = sys.argv[1:]


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(reader, writer):
    try:
        other = await asyncio.open_connection("127.0.0.1", int(TO))
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, other[1]), copy(other[0], writer))


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    await asyncio.start_server(serve, "127.0.0.1", int(PORT), ssl=context)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
