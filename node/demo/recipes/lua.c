/* Runs the Lua program in its arguments: -e TEXT, or a file. (The crate carries the library, without its own program.) */
#include <stdio.h>
#include <string.h>
#include "lauxlib.h"
#include "lualib.h"

int main(int count, char **arguments) {
    lua_State *state = luaL_newstate();
    int failed;
    if (state == NULL || count < 2 || (strcmp(arguments[1], "-e") == 0 && count < 3)) {
        fprintf(stderr, "usage: lua -e TEXT | lua FILE\n");
        return 2;
    }
    luaL_openlibs(state);
    failed = strcmp(arguments[1], "-e") == 0 ? luaL_dostring(state, arguments[2]) : luaL_dofile(state, arguments[1]);
    if (failed) {
        fprintf(stderr, "lua: %s\n", lua_tostring(state, -1));
    }
    lua_close(state);
    return failed;
}
