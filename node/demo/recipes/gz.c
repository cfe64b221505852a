/* Compresses standard input to standard output; with -d, the other way round. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

static char piece[1 << 16];

int main(int count, char **arguments) {
    int unpack = count > 1 && strcmp(arguments[1], "-d") == 0;
    gzFile packed = gzdopen(unpack ? STDIN_FILENO : STDOUT_FILENO, unpack ? "rb" : "wb9");
    FILE *plain = unpack ? stdout : stdin;
    int length;
    if (packed == NULL) {
        return 1;
    }
    if (unpack) {
        while ((length = gzread(packed, piece, sizeof piece)) > 0) {
            fwrite(piece, 1, (size_t)length, plain);
        }
    } else {
        while ((length = (int)fread(piece, 1, sizeof piece, plain)) > 0 && gzwrite(packed, piece, (unsigned)length) == length) {
        }
    }
    if (length != 0 || gzclose(packed) != Z_OK || fflush(plain) != 0) {
        fprintf(stderr, "gz: broken input, or no room for the output\n");
        return 1;
    }
    return 0;
}
